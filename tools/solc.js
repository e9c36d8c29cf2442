// The Solidity compiler for forge, without a native binary.
//
// forge calls a compiler in two ways only: `--version`, and `--standard-json` with every source inlined
// on standard input. Both are answered here by soljson.js, the compiler built to WebAssembly.
// A compiler's output depends on its input alone, so it is kept under .cache/solc by the input's hash.
// It uses one processor; so the contracts asked for are divided among as many compilers as there are processors.
// Usage: node solc.js VERSION [arguments of solc]; scripts/setup writes tools/bin/solc-VERSION around it.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const os = require("os");
const path = require("path");
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");

const [version, ...args] = process.argv.slice(2);
const folder = path.join(__dirname, "packages", `solc-${version}`);
const found = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).version;
if (found !== version) {
  console.error(`solc.js: expected solc ${version} in ${folder}, found ${found}; run scripts/setup --dev`);
  process.exit(1);
}

// More compilers than that would spend most of their time on reading the same sources.
const MOST = 4;

const compiler = () => require(path.join(folder, "soljson.js"));
const call = (name, types, ...values) => compiler().cwrap(name, "string", types)(...values);

// Compile; a string argument would be copied to the compiler's small stack, four bytes a character.
function compile(input) {
  const size = Buffer.byteLength(input) + 1;
  const at = compiler()._solidity_alloc(size);
  compiler().stringToUTF8(input, at, size);
  return call("solidity_compile", ["number", "number", "number"], at, 0, 0);
}

// What to ask of each of several compilers: all sources, and a share of the outputs. The files that are asked for
// are dealt out by their length, to and fro, so that the shares take about as long.
function divided(input, shares) {
  const job = JSON.parse(input);
  const { outputSelection, ...settings } = job.settings;
  const files = Object.keys(outputSelection).sort((a, b) => length(job, b) - length(job, a));
  const turns = [...Array(shares).keys(), ...[...Array(shares).keys()].reverse()];
  const dealt = Array.from({ length: shares }, () => ({}));
  files.forEach((file, n) => { dealt[turns[n % turns.length]][file] = outputSelection[file]; });
  return dealt.map((share) => JSON.stringify({ ...job, settings: { ...settings, outputSelection: share } }));
}

const length = (job, file) => job.sources[file]?.content.length ?? 0;

// One answer of several, as if one compiler had given it; what more than one of them warns of is told once. All
// name every source, but each has the syntax tree of its own share alone.
function joined(answers) {
  const told = answers.map((each) => JSON.parse(each));
  const errors = new Map(told.flatMap((each) => each.errors ?? []).map((each) => [JSON.stringify(each), each]));
  return JSON.stringify({
    contracts: Object.assign({}, ...told.map((each) => each.contracts)),
    errors: [...errors.values()],
    sources: told.map((each) => each.sources).reduce((all, some) => {
      for (const [file, found] of Object.entries(some ?? {})) all[file] = { ...all[file], ...found };
      return all;
    }, {}),
  });
}

async function compileDivided(input) {
  const parts = divided(input, Math.min(os.availableParallelism(), MOST));
  const answers = parts.map((part) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { argv: [version], workerData: part });
    worker.once("message", resolve).once("error", reject);
  }));
  return joined(await Promise.all(answers));
}

// The answer of `make`, kept under the hash of `input`; the rename keeps two at once from mixing.
async function remembered(input, make) {
  const key = crypto.createHash("sha256").update(`${version}\n${input}`).digest("hex");
  const file = path.join(__dirname, "..", ".cache", "solc", key);
  if (!fs.existsSync(file)) {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(`${file}.${process.pid}`, await make());
    fs.renameSync(`${file}.${process.pid}`, file);
  }
  return fs.readFileSync(file);
}

// Without the IR pipeline, only tests are compiled: contracts of src/ are too deep for the old code generator,
// and tests take them by their artifacts, which the other pipeline makes.
function testsOnly(input) {
  const job = JSON.parse(input);
  if (job.settings.viaIR) return input;
  for (const file of Object.keys(job.settings.outputSelection)) {
    if (file.startsWith("src/")) job.settings.outputSelection[file] = {};
  }
  return JSON.stringify(job);
}

async function main() {
  if (args.includes("--version")) {
    // forge reads the platform as part of the version and knows only those of native builds.
    const long = await remembered("--version", () => call("solidity_version", []));
    console.log(`solc, the solidity compiler\nVersion: ${String(long).replace("Emscripten.clang", "Linux.g++")}`);
  } else if (args.includes("--standard-json")) {
    const input = testsOnly(fs.readFileSync(0, "utf8"));
    const output = await remembered(input, () => compileDivided(input));
    // writeSync may write a part only when standard output is a pipe, so write until all is out.
    for (let at = 0; at < output.length; ) {
      try {
        at += fs.writeSync(1, output, at);
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
      }
    }
  } else {
    console.error(`solc.js: expected --version or --standard-json, found ${JSON.stringify(args)}`);
    process.exit(1);
  }
}

if (isMainThread) {
  main().catch((error) => { console.error(error); process.exit(1); });
} else {
  parentPort.postMessage(compile(workerData));
}
