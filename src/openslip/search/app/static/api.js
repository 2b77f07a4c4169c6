// Requests to the server, and the messages of its errors.

/** An answer that is an error: the message for people, and the status, 0 if the server did not answer at all. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

/** Ask for JSON. A busy server is asked again, up to `patience` times; `waiting` is called each time. */
export async function ask(path, { body, kind = "application/json", signal, patience = 5, waiting } = {}) {
  const options = body === undefined ? { signal } : { method: "POST", body, headers: { "Content-Type": kind }, signal };
  for (let tries = 0; ; tries++) {
    let reply;
    try {
      reply = await fetch(path, { cache: "no-store", ...options });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused("The server does not answer. Is `slip serve` still running?");
    }
    if ((reply.status === 503 || reply.status === 202) && tries < patience) {
      waiting?.();
      await pause(Number(reply.headers.get("Retry-After")) || 1, signal);
      continue;
    }
    let answer;
    try {
      answer = await reply.json();
    } catch {
      answer = {};
    }
    if (!reply.ok || reply.status === 202) {
      throw new Refused(answer.error ?? `The server answers with status ${reply.status}.`, reply.status);
    }
    return answer;
  }
}

export const post = (path, value, options) => ask(path, { body: JSON.stringify(value), ...options });
