// Of several askings only the newest counts.

/** `ask(signal, ...given)` as a function that gives up what it asked before: for what the service can drop. */
export function latest(ask) {
  let current = null;
  return (...given) => {
    current?.abort();
    current = new AbortController();
    return ask(current.signal, ...given);
  };
}

/**
 * `ask(...given)` as a function that asks one at a time, and next only what was wanted last.
 *
 * A network is looked into by one thread: questions that were given up would still be worked on, one after the other,
 * ahead of the one that counts. Those that are overtaken reject as `latest`'s do.
 */
export function oneByOne(ask) {
  let wanted = null, running = false;

  async function work() {
    running = true;
    while (wanted) {
      const { given, resolve, reject } = wanted;
      wanted = null;
      const answer = await ask(...given).then((value) => () => resolve(value), (error) => () => reject(error));
      if (wanted) reject(overtaken());
      else answer();
    }
    running = false;
  }

  return (...given) => new Promise((resolve, reject) => {
    wanted?.reject(overtaken());
    wanted = { given, resolve, reject };
    if (!running) work();
  });
}

function overtaken() {
  return new DOMException("a newer question took its place", "AbortError");
}
