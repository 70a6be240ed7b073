// Shippo's own JavaScript client against the sandbox: every call that a shop makes, and every answer read by its schemas.

import assert from "node:assert/strict";
import { Shippo } from "shippo";

const [base, key] = process.argv.slice(2);
const client = new Shippo({ apiKeyHeader: key, shippoApiVersion: "2018-02-08", serverURL: base });

const address = (country = "US") => ({
  name: "Ada Lovelace", street1: "965 Mission St", city: "San Francisco", state: "CA", zip: "94103", country, validate: true,
});
const parcel = { length: "10", width: "15.5", height: "5", distanceUnit: "cm", weight: "450", massUnit: "g" };

const made = await client.addresses.create(address());
assert((await client.addresses.get(made.objectId)).isComplete);
assert((await client.addresses.validate(made.objectId)).validationResults.isValid);
assert.equal((await client.parcels.create(parcel)).weight, "450");

const item = await client.customsItems.create({
  description: "Lamp", quantity: 2, netWeight: "200", massUnit: "g", valueAmount: "12.50", valueCurrency: "USD", originCountry: "US",
});
const papers = await client.customsDeclarations.create({
  certify: true, certifySigner: "Ada", contentsType: "MERCHANDISE", items: [item.objectId], nonDeliveryOption: "RETURN",
});

const shipment = (country, customsDeclaration) =>
  client.shipments.create({
    addressFrom: address(), addressTo: address(country), parcels: [parcel], async: false, metadata: "order 7", customsDeclaration,
  });
assert.equal((await shipment("DE", papers.objectId)).rates[0].currencyLocal, "EUR");
const home = await shipment("US");
assert.equal((await client.shipments.get(home.objectId)).status, "SUCCESS");
assert.equal((await client.rates.get(home.rates[0].objectId)).amount, home.rates[0].amount);
assert.equal((await client.rates.listShipmentRates({ shipmentId: home.objectId })).results.length, 4);

const rate = home.rates[0].objectId;
const label = await client.transactions.create({ rate, async: false, metadata: "shp_1", labelFileType: "PDF_4x6" });
assert.equal(label.status, "SUCCESS");
assert.equal((await client.transactions.create({ rate, async: true })).status, "QUEUED");
assert.equal((await client.transactions.get(label.objectId)).trackingNumber, label.trackingNumber);
const instant = await client.transactions.create({
  shipment: { addressFrom: address(), addressTo: address(), parcels: [parcel] },
  carrierAccount: home.rates[0].carrierAccount,
  servicelevelToken: "usps_priority",
});
assert.equal(instant.status, "SUCCESS");

const test = await client.trackingStatus.get("SHIPPO_TRANSIT", "shippo");
assert.equal(test.trackingStatus.status, "TRANSIT");
const track = await client.trackingStatus.create({ carrier: "usps", trackingNumber: label.trackingNumber });
assert.equal(track.transaction, label.objectId);

const refund = await client.refunds.create({ transaction: label.objectId });
assert.equal((await client.refunds.get(refund.objectId)).transaction, label.objectId);

const hook = await client.webhooks.createWebhook({ url: "http://127.0.0.1:9/hook", event: "all", isTest: true });
assert.equal((await client.webhooks.getWebhook(hook.objectId)).url, hook.url);
await client.webhooks.deleteWebhook(hook.objectId);
console.log("shippo (JavaScript): all answers read");
