// Does what a test says with a client of WeChat Pay that others wrote, and prints a JSON list of
// results. stdin: {"config": {…}, "apiKey": …, "steps": [{"call": path, "method": …, "data": …,
// "params": …} | {"bill": query} | {"notice": body, "headers": {…}}]}. A result is
// {"status", "data"}, the rows of a bill, the decrypted notice, or {"error", "status", "data"}.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import wechatpay from "wechatpay-axios-plugin";

const { Aes, Formatter, Hash, Rsa, Wechatpay } = wechatpay;
const { config, apiKey, steps } = JSON.parse(readFileSync(0, "utf8"));
const client = new Wechatpay(config).client;

async function bill(query) {
  const { data } = await client.request("v3/bill/tradebill", "get", undefined, { params: query });
  const address = new URL(data.download_url);
  const raw = await client.request(address.pathname.slice(1), "get", undefined, {
    params: Object.fromEntries(address.searchParams),
    responseType: "arraybuffer",
    transformResponse: [(body) => body],
  });
  const plain = gunzipSync(raw.data);
  return { intact: Hash.sha1(plain) === data.hash_value, ...Formatter.castCsvBill(plain) };
}

function notice(body, headers) {
  const key = Rsa.from(config.certs[headers["wechatpay-serial"]], Rsa.KEY_TYPE_PUBLIC);
  const text = Formatter.response(
    headers["wechatpay-timestamp"],
    headers["wechatpay-nonce"],
    body,
  );
  if (!Rsa.verify(text, headers["wechatpay-signature"], key)) return { error: "signature" };
  const { ciphertext, nonce, associated_data } = JSON.parse(body).resource;
  return JSON.parse(Aes.AesGcm.decrypt(ciphertext, apiKey, nonce, associated_data));
}

async function done(step) {
  if (step.bill) return bill(step.bill);
  if (step.notice) return notice(step.notice, step.headers);
  const { status, data } = await client.request(step.call, step.method, step.data, {
    params: step.params,
  });
  return { status, data };
}

const results = [];
for (const step of steps) {
  try {
    results.push(await done(step));
  } catch (error) {
    const { status, data } = error.response ?? {};
    results.push({ error: error.message, status, data });
  }
}
console.log(JSON.stringify(results));
