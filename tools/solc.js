// The Solidity compiler for forge, without a native binary.
//
// forge calls a compiler in two ways only: `--version`, and `--standard-json` with every source inlined
// on standard input. Both are answered here by soljson.js, the compiler built to WebAssembly.
// A compiler's output depends on its input alone, so it is kept under .cache/solc by the input's hash.
// Usage: node solc.js VERSION [arguments of solc]; scripts/setup writes tools/bin/solc-VERSION around it.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");

const [version, ...args] = process.argv.slice(2);
const folder = path.join(__dirname, "packages", `solc-${version}`);
const found = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).version;
if (found !== version) {
  console.error(`solc.js: expected solc ${version} in ${folder}, found ${found}; run scripts/setup --dev`);
  process.exit(1);
}

const compiler = () => require(path.join(folder, "soljson.js"));
const call = (name, types, ...values) => compiler().cwrap(name, "string", types)(...values);

// Compile; a string argument would be copied to the compiler's small stack, four bytes a character.
function compile(input) {
  const size = Buffer.byteLength(input) + 1;
  const at = compiler()._solidity_alloc(size);
  compiler().stringToUTF8(input, at, size);
  return call("solidity_compile", ["number", "number", "number"], at, 0, 0);
}

// The answer of `make`, kept under the hash of `input`; the rename keeps two at once from mixing.
function remembered(input, make) {
  const key = crypto.createHash("sha256").update(`${version}\n${input}`).digest("hex");
  const file = path.join(__dirname, "..", ".cache", "solc", key);
  if (!fs.existsSync(file)) {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(`${file}.${process.pid}`, make());
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

if (args.includes("--version")) {
  // forge reads the platform as part of the version and knows only those of native builds.
  const long = remembered("--version", () => call("solidity_version", []));
  console.log(`solc, the solidity compiler\nVersion: ${String(long).replace("Emscripten.clang", "Linux.g++")}`);
} else if (args.includes("--standard-json")) {
  const input = testsOnly(fs.readFileSync(0, "utf8"));
  const output = remembered(input, () => compile(input));
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
