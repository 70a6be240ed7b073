"""Shippo's own Python client against the sandbox: every call that a shop makes, and every answer read by its models."""

import sys

import shippo
from shippo.models import components

base, key = sys.argv[1], sys.argv[2]
client = shippo.Shippo(api_key_header=key, shippo_api_version="2018-02-08", server_url=base)


def address(country="US"):
    return components.AddressCreateRequest(
        name="Ada Lovelace", street1="965 Mission St", city="San Francisco", state="CA", zip="94103", country=country, validate=True)


def parcel():
    return components.ParcelCreateRequest(
        length="10", width="15.5", height="5", distance_unit=components.DistanceUnitEnum.CM, weight="450", mass_unit=components.WeightUnitEnum.G)


made = client.addresses.create(address())
assert client.addresses.get(made.object_id).is_complete
assert client.addresses.validate(made.object_id).validation_results.is_valid
assert client.parcels.create(parcel()).weight == "450"

item = client.customs_items.create(components.CustomsItemCreateRequest(
    description="Lamp", quantity=2, net_weight="200", mass_unit=components.WeightUnitEnum.G, value_amount="12.50", value_currency="USD",
    origin_country="US"))
papers = client.customs_declarations.create(components.CustomsDeclarationCreateRequest(
    certify=True, certify_signer="Ada", contents_type=components.CustomsDeclarationContentsTypeEnum.MERCHANDISE, items=[item.object_id],
    non_delivery_option=components.CustomsDeclarationNonDeliveryOptionEnum.RETURN))


def shipment(country="US", customs=None):
    return client.shipments.create(components.ShipmentCreateRequest(
        address_from=address(), address_to=address(country), parcels=[parcel()], async_=False, metadata="order 7", customs_declaration=customs))


abroad = shipment("DE", papers.object_id)
assert abroad.rates[0].currency_local == "EUR"
home = shipment()
assert client.shipments.get(home.object_id).status.value == "SUCCESS"
assert client.rates.get(home.rates[0].object_id).amount == home.rates[0].amount
assert len(client.rates.list_shipment_rates(home.object_id).results) == 4

label = client.transactions.create(components.TransactionCreateRequest(
    rate=home.rates[0].object_id, async_=False, metadata="shp_1", label_file_type=components.LabelFileTypeEnum.PDF_4X6))
assert label.status == components.TransactionStatusEnum.SUCCESS and label.label_url
queued = client.transactions.create(components.TransactionCreateRequest(rate=home.rates[0].object_id, async_=True))
assert queued.status == components.TransactionStatusEnum.QUEUED
assert client.transactions.get(label.object_id).tracking_number == label.tracking_number
assert len(client.transactions.list().results) == 2
instant = client.transactions.create(components.InstantTransactionCreateRequest(
    shipment=components.ShipmentCreateRequest(address_from=address(), address_to=address(), parcels=[parcel()]),
    carrier_account=home.rates[0].carrier_account, servicelevel_token="usps_priority"))
assert instant.status == components.TransactionStatusEnum.SUCCESS

assert client.tracking_status.get("SHIPPO_TRANSIT", "shippo").tracking_status.status == components.TrackingStatusEnum.TRANSIT
track = client.tracking_status.create(components.TracksRequest(carrier="usps", tracking_number=label.tracking_number))
assert track.transaction == label.object_id

refund = client.refunds.create(components.RefundRequestBody(transaction=label.object_id))
assert client.refunds.get(refund.object_id).transaction == label.object_id

hook = client.webhooks.create_webhook(components.WebhookUpdateRequest(
    url="http://127.0.0.1:9/hook", event=components.WebhookEventTypeEnum.ALL, is_test=True))
assert client.webhooks.get_webhook(hook.object_id).url == hook.url
assert len(client.webhooks.list_webhooks().results) == 1
client.webhooks.delete_webhook(hook.object_id)
print("shippo (Python): all answers read")
