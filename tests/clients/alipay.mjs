// Does what a test says with the official client of Alipay, and prints a JSON list of results.
// stdin: {"config": {…}, "steps": [{"exec": method, "params": {…}} | {"page": method, "params": {…}}
// | {"notice": raw form}]}. A result is what the client returns, or {"error": message}.
import { readFileSync } from "node:fs";
import { AlipaySdk } from "alipay-sdk";

const { config, steps } = JSON.parse(readFileSync(0, "utf8"));
const sdk = new AlipaySdk({ keyType: "PKCS8", ...config });

async function done(step) {
  if (step.exec) return sdk.exec(step.exec, step.params, { validateSign: true });
  if (step.page) return sdk.pageExecute(step.page, "GET", step.params);
  return sdk.checkNotifySignV2(Object.fromEntries(new URLSearchParams(step.notice)));
}

const results = [];
for (const step of steps) {
  try {
    results.push(await done(step));
  } catch (error) {
    results.push({ error: error.message });
  }
}
console.log(JSON.stringify(results));
