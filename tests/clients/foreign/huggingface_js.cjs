// The unmodified @huggingface/inference: a JSON job on each line in, an answer on each line out.
"use strict";

const { createInterface } = require("node:readline");
const { InferenceClient } = require("@huggingface/inference");
const { version } = require("@huggingface/inference/package.json");

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// `endpoint` makes a client for that address; `arguments` may name one as `endpointUrl` instead.
async function answer({ method, arguments: args, token, endpoint, options = {}, give_up_after_ms }) {
  const client = new InferenceClient(token);
  if (give_up_after_ms !== undefined) {
    options.signal = AbortSignal.timeout(give_up_after_ms);
  }
  try {
    const caller = endpoint === undefined ? client : client.endpoint(endpoint);
    return { value: await caller[method](args, options) };
  } catch (error) {
    const { status, requestId } = error.httpResponse ?? {};
    return {
      error: { kinds: [error.name], message: error.message, status, request_id: requestId },
    };
  }
}

async function main() {
  const lines = createInterface({ input: process.stdin });
  say({ version });
  for await (const line of lines) {
    say(await answer(JSON.parse(line)));
  }
}

main();
