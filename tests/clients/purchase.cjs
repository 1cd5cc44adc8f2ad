// A purchase by a Node program that has only protos/ of a checkout: `node purchase.cjs PROTOS ORDER_ADDRESS PAYMENT_ADDRESS TOKEN SKU`.
// Prints one line of JSON. The token travels as for every caller: `authorization: Bearer …`.
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, orderAddress, paymentAddress, token, skuId] = process.argv.slice(2);
const files = fs.readdirSync(path.join(protos, "paymesh"), { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".proto")).map((name) => path.join("paymesh", name));
const definition = loader.loadSync(files, { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true });
const { paymesh } = grpc.loadPackageDefinition(definition);
const orders = new paymesh.order.v1.OrderService(orderAddress, grpc.credentials.createInsecure());
const payments = new paymesh.payment.v1.PaymentService(paymentAddress, grpc.credentials.createInsecure());

function call(stub, method, request, headers = {}) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries({ authorization: `Bearer ${token}`, ...headers })) metadata.set(name, value);
  return new Promise((resolve, reject) => stub[method](request, metadata, { deadline: Date.now() + 10_000 },
    (error, answer) => (error ? reject(error) : resolve(answer))));
}

async function main() {
  const { order } = await call(orders, "CreateOrder", { items: [{ sku_id: skuId, quantity: 1 }] });
  const card = {
    credit_card_number: "4242424242424242", credit_card_cvv: "123",
    credit_card_expiration_year: new Date().getFullYear() + 2, credit_card_expiration_month: 12,
  };
  const charged = await call(payments, "Charge", { order_id: order.order_id, amount: order.amount, credit_card: card }, { "idempotency-key": order.order_id });
  const { payment } = await call(payments, "GetPaymentByOrderId", { order_id: order.order_id });
  console.log(JSON.stringify({ order_id: order.order_id, transaction_id: charged.transaction_id, payment_id: payment.payment_id, state: payment.state }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
