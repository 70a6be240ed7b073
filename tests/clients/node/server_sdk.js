// Drives the sandbox through npm @paypal/paypal-server-sdk: orders, authorizations, captures, refunds, refusals.

import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';

import { Client, Environment, OrdersController, PaymentsController } from '@paypal/paypal-server-sdk';

const { SANDBOX, CLIENT_ID, CLIENT_SECRET } = process.env;

// the client has no setting for its address: its HTTP library is told where to go instead
const axios = createRequire(createRequire(import.meta.url).resolve('@paypal/paypal-server-sdk'))('axios');
const adapter = (config) => {
  config.url = config.url.replace('https://api-m.sandbox.paypal.com', SANDBOX);
  return axios.getAdapter('http')(config);
};
const client = new Client({
  clientCredentialsAuthCredentials: { oAuthClientId: CLIENT_ID, oAuthClientSecret: CLIENT_SECRET },
  environment: Environment.Sandbox,
  unstable_httpClientOptions: { adapter },
});
const orders = new OrdersController(client);
const payments = new PaymentsController(client);

const usd = (value) => ({ currencyCode: 'USD', value });
const asked = (options) => ({ paypalRequestId: randomUUID(), prefer: 'return=representation', ...options });

const control = (path) =>
  fetch(`${SANDBOX}/_sandbox/${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });

const check = (what, holds) => {
  if (!holds) {
    console.log(`  FAILED  ${what}`);
    process.exit(1);
  }
  console.log(`  ok      ${what}`);
};

const refused = async (what, issue, call) => {
  const error = await call().then(() => undefined, (error) => error);
  check(what, error?.statusCode === 422 && error.result?.details?.[0]?.issue === issue);
};

const approved = async (intent) => {
  const body = {
    intent,
    purchaseUnits: [{
      customId: 'payment-1',
      amount: { ...usd('30.00'), breakdown: { itemTotal: usd('30.00') } },
      items: [{ name: 'Lamp', quantity: '3', unitAmount: usd('10.00') }],
    }],
    paymentSource: { paypal: { experienceContext: {
      returnUrl: 'https://shop.example/return', cancelUrl: 'https://shop.example/cancel',
    } } },
  };
  const { result } = await orders.createOrder(asked({ body }));
  check(`an order to ${intent.toLowerCase()} is created`, result.status === 'PAYER_ACTION_REQUIRED');
  await control(`orders/${result.id}/approve`);
  return result.id;
};

const id = await approved('CAPTURE');
check('an approved order is read', (await orders.getOrder({ id })).result.status === 'APPROVED');
const done = (await orders.captureOrder(asked({ id }))).result;
const capture = done.purchaseUnits[0].payments.captures[0];
check('it is captured', capture.status === 'COMPLETED' && capture.amount.value === '30.00');
check('a capture is read', (await payments.getCapturedPayment({ captureId: capture.id })).result.id === capture.id);
const refund = (await payments.refundCapturedPayment(asked({ captureId: capture.id, body: { amount: usd('5.00') } }))).result;
check('it is refunded in part', refund.status === 'COMPLETED');
check('a refund is read', (await payments.getRefund({ refundId: refund.id })).result.amount.value === '5.00');
await refused('a second capture is refused', 'ORDER_ALREADY_CAPTURED', () => orders.captureOrder(asked({ id })));
const other = await approved('CAPTURE');
const paypalMockResponse = '{"mock_application_codes":"INSTRUMENT_DECLINED"}';
await refused('PayPal-Mock-Response is honoured', 'INSTRUMENT_DECLINED',
  () => orders.captureOrder(asked({ id: other, paypalMockResponse })));

const reserved = (await orders.authorizeOrder(asked({ id: await approved('AUTHORIZE') }))).result;
const authorizationId = reserved.purchaseUnits[0].payments.authorizations[0].id;
const part = { amount: usd('10.00'), finalCapture: false };
const taken = (await payments.captureAuthorizedPayment(asked({ authorizationId, body: part }))).result;
check('an authorization is captured in part', taken.status === 'COMPLETED' && taken.finalCapture === false);
const shown = (await payments.getAuthorizedPayment({ authorizationId })).result;
check('an authorization is read', shown.status === 'PARTIALLY_CAPTURED');
check('the rest is let go of', (await payments.voidPayment({ authorizationId })).statusCode === 204);
