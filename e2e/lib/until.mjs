// Waiting for conditions: tests never sleep for a fixed time to see something come true.

/** Asks `probe` until it returns something truthy; fails naming `what` and the last answer. */
export async function until(what, probe, { timeout = 30_000, every = 100 } = {}) {
  const deadline = performance.now() + timeout;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      const said = last instanceof Error ? last.stack : JSON.stringify(last);
      throw new Error(`waited ${timeout} ms for: ${what}; last: ${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

/** Watches `probe` for `duration` ms and fails when `holds(previous, now)` is false between two samples. */
export async function always(what, probe, holds, { duration, every }) {
  const end = performance.now() + duration;
  let previous = await probe();
  while (performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, every));
    const now = await probe();
    if (!holds(previous, now)) {
      throw new Error(`${what}: ${JSON.stringify(previous)} then ${JSON.stringify(now)}`);
    }
    previous = now;
  }
}
