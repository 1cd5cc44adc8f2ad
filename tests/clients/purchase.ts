// A purchase by a TypeScript program over REST, typed by what `openapi-typescript` makes of /openapi.json. Compiled with `tsc --strict`.
import createClient from "openapi-fetch";
import type { paths } from "./openapi.js";

const [base, token, skuId] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: base, headers: { authorization: `Bearer ${token}` } });

const ordered = await client.POST("/api/v1/orders", { body: { items: [{ sku_id: skuId, quantity: 1 }] } });
if (ordered.error) throw new Error(`${ordered.error.code} ${ordered.error.message}`);
const order = ordered.data.data;

const charged = await client.POST("/api/v1/payments/charge", {
  params: { header: { "Idempotency-Key": `ts-${order.order_id}` } },
  body: {
    order_id: order.order_id, amount: order.amount,
    credit_card: {
      credit_card_number: "4242424242424242", credit_card_cvv: "123",
      credit_card_expiration_year: new Date().getFullYear() + 2, credit_card_expiration_month: 12,
    },
  },
});
if (charged.error) throw new Error(`${charged.error.code} ${charged.error.message}`);

const read = await client.GET("/api/v1/payments/order/{order_id}", { params: { path: { order_id: order.order_id } } });
if (read.error) throw new Error(`${read.error.code} ${read.error.message}`);
console.log(JSON.stringify({ order_id: order.order_id, transaction_id: charged.data.data.transaction_id, payment_id: read.data.data.payment_id, state: read.data.data.state }));
