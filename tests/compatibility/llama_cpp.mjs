// What llama.cpp makes of a GGUF file: ids of texts and greedy continuations of ids, in fp32 on the CPU.
// Reads {library, model, texts, prompts, numNewTokens} from stdin as JSON; writes {ids, bos, continuations}.

import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const request = JSON.parse(readFileSync(0, "utf-8"));
const {getLlama} = await import(pathToFileURL(request.library).href);
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error"});
const model = await llama.loadModel({modelPath: request.model, gpuLayers: 0});
const context = await model.createContext({
    contextSize: 256,
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32"
});
const sequence = context.getSequence();
const continuations = [];
for (const prompt of request.prompts) {
    await sequence.clearHistory();
    const found = [];
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        found.push(token);
        if (found.length === request.numNewTokens) break;
    }
    continuations.push(found);
}
const ids = request.texts.map((text) => Array.from(model.tokenize(text, true)));
const bos = model.tokens.shouldPrependBosToken ? model.tokens.bos : null;
const answer = JSON.stringify({ids, bos, continuations});
process.stdout.write(answer, () => process.exit(0));
