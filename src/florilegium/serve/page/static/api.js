// Requests to this server, and nobody else. Errors are the server's own sentence.

const HEADERS = { "X-Florilegium": "page" };

async function checked(response) {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* no JSON: the number will do */ }
  throw new Error(message);
}

async function request(path, options) {
  try {
    return await checked(await fetch(path, options));
  } catch (error) {
    if (error instanceof TypeError) throw new Error("the server does not answer: is it still running?");
    throw error;
  }
}

export const get = async (path) => (await request(path, {})).json();

export const post = async (path, body, signal) => (await send(path, body, signal)).json();

export const postFile = async (path, file) => (await request(path, { method: "POST", headers: HEADERS, body: file })).json();

function send(path, body, signal) {
  const headers = { ...HEADERS, "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body ?? {}), signal });
}

// The events of a stream, as objects, until [DONE].
export async function* stream(path, body, signal) {
  const response = body === null ? await request(path, { signal }) : await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
