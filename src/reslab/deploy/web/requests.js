// Wrappers of requests, of which only the newest matters.

/** Wrap `send(signal, ...args)` so that a new call aborts the previous one; for requests that the server can cancel. */
export function latest(send) {
  let current = null;
  return (...args) => {
    current?.abort();
    current = new AbortController();
    return send(current.signal, ...args);
  };
}

/**
 * Wrap `send(...args)` so that one call runs at a time, and after it only the most recent waiting one.
 *
 * One thread per network runs the analyses, and it would still compute aborted requests before the newest one. Superseded
 * calls reject like those of `latest`.
 */
export function inTurn(send) {
  let pending = null, running = false;

  async function drain() {
    running = true;
    while (pending) {
      const { args, resolve, reject } = pending;
      pending = null;
      const settle = await send(...args).then((value) => () => resolve(value), (error) => () => reject(error));
      if (pending) reject(supersededError());
      else settle();
    }
    running = false;
  }

  return (...args) => new Promise((resolve, reject) => {
    pending?.reject(supersededError());
    pending = { args, resolve, reject };
    if (!running) drain();
  });
}

/** Return a function that starts an action and returns whether it is still the newest: `const isNewest = start()`. */
export function newest() {
  let last = 0;
  return () => {
    const number = ++last;
    return () => number === last;
  };
}

function supersededError() {
  return new DOMException("superseded by a newer request", "AbortError");
}
