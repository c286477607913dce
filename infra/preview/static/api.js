// Questions to the server: a few at a time, the newest first to be given up when the page moves on.

const AT_ONCE = 4;
const waiting = [];
let running = 0;

/** Thrown when a question is no longer of interest. */
export const gone = (error) => error.name === "AbortError";

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (gone(error)) throw error;
    throw new Error("the preview's server does not answer: does it still run?");
  }
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (gone(error)) throw error;
    throw new Error(response.ok ? "the answer broke off: it is longer than a panel can show, or the query was ended" : `the server said ${response.status}`);
  }
  if (!response.ok) throw new Error(body.error ?? `the server said ${response.status}`);
  if (body.exception) throw new Error(body.exception);
  return body;
}

export const boards = () => request("/api/boards");
export const board = (uid) => request(`/api/boards/${encodeURIComponent(uid)}`);

const post = (path, question, signal) => request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal });

/** ClickHouse's answer: {meta: [{name, type}], data: [[...]]}. */
export async function ask(question, signal) {
  await turn(signal);
  try {
    return await post("/api/query", question, signal);
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

/** The SQL a question stands for. */
export const sql = (question) => post("/api/sql", question);

async function turn(signal) {
  signal?.throwIfAborted();
  if (running >= AT_ONCE) {
    await new Promise((go, give) => {
      waiting.push(go);
      signal?.addEventListener("abort", () => {
        const place = waiting.indexOf(go);
        if (place >= 0) {
          waiting.splice(place, 1);
          give(signal.reason);
        }
      });
    });
  }
  running += 1;
}

/** Nothing asked, nothing waiting. */
export const idle = () => running === 0 && waiting.length === 0;
