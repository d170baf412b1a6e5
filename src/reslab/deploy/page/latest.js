// Of several askings only the newest counts.

/** `ask(signal, ...given)` as a function that gives up what it asked before. */
export function latest(ask) {
  let current = null;
  return (...given) => {
    current?.abort();
    current = new AbortController();
    return ask(current.signal, ...given);
  };
}
