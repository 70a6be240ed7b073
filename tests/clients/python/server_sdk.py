"""Drives the sandbox through PyPI paypal-server-sdk: orders, authorizations, captures, refunds, refusals."""

import uuid

from paypalserversdk.configuration import Configuration, Environment, Server
from paypalserversdk.exceptions.error_exception import ErrorException
from paypalserversdk.http.auth.o_auth_2 import ClientCredentialsAuthCredentials
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient

from sandbox import BASE, CLIENT_ID, CLIENT_SECRET, check, control

Configuration.environments[Environment.SANDBOX][Server.DEFAULT] = BASE
client = PaypalServersdkClient(
    environment=Environment.SANDBOX,
    client_credentials_auth_credentials=ClientCredentialsAuthCredentials(CLIENT_ID, CLIENT_SECRET),
)


def asked(**options):
    return {"paypal_request_id": str(uuid.uuid4()), "prefer": "return=representation", **options}


def usd(value):
    return {"currency_code": "USD", "value": value}


def order(intent):
    return {
        "intent": intent,
        "purchase_units": [
            {
                "custom_id": "payment-1",
                "invoice_id": "INV-1",
                "amount": {**usd("30.00"), "breakdown": {"item_total": usd("25.00"), "shipping": usd("5.00")}},
                "items": [{"name": "Lamp", "quantity": "2", "unit_amount": usd("12.50")}],
            }
        ],
        "payment_source": {
            "paypal": {
                "experience_context": {
                    "return_url": "https://shop.example/return",
                    "cancel_url": "https://shop.example/cancel",
                }
            }
        },
    }


def approved(intent):
    created = client.orders.create_order(asked(body=order(intent))).body
    check(f"an order to {intent.lower()} is created", created.id and created.status == "PAYER_ACTION_REQUIRED")
    check("and names the page to approve it", any(link.rel == "payer-action" for link in created.links))
    control(f"orders/{created.id}/approve")
    return created.id


order_id = approved("CAPTURE")
check("an approved order is read", client.orders.get_order({"id": order_id}).body.status == "APPROVED")
patch = [{"op": "replace", "path": "/purchase_units/@reference_id=='default'/custom_id", "value": "payment-2"}]
check("an order is patched", client.orders.patch_order({"id": order_id, "body": patch}).status_code == 204)
done = client.orders.capture_order(asked(id=order_id)).body
capture = done.purchase_units[0].payments.captures[0]
check("it is captured", done.status == "COMPLETED" and capture.status == "COMPLETED" and capture.amount.value == "30.00")
check("with the patched custom_id", capture.custom_id == "payment-2")
shown = client.payments.get_captured_payment({"capture_id": capture.id}).body
check("a capture is read", shown.supplementary_data.related_ids.order_id == order_id)

refund = client.payments.refund_captured_payment(asked(capture_id=capture.id, body={"amount": usd("5.00")})).body
check("it is refunded in part", refund.status == "COMPLETED" and refund.amount.value == "5.00")
check("a refund is read", client.payments.get_refund({"refund_id": refund.id}).body.id == refund.id)
parcel = {"capture_id": capture.id, "tracking_number": "9400", "carrier": "USPS"}
tracked = client.orders.create_order_tracking({"id": order_id, "body": parcel}).body
check("PayPal is told of a parcel", tracked.purchase_units[0].shipping.trackers[0].id.endswith("-9400"))

try:
    client.orders.capture_order(asked(id=order_id))
    check("a second capture is refused", False)
except ErrorException as error:
    check("a second capture is refused", error.details[0].issue == "ORDER_ALREADY_CAPTURED")
try:
    mock = '{"mock_application_codes":"INSTRUMENT_DECLINED"}'
    client.orders.capture_order(asked(id=approved("CAPTURE"), paypal_mock_response=mock))
    check("PayPal-Mock-Response is honoured", False)
except ErrorException as error:
    check("PayPal-Mock-Response is honoured", error.details[0].issue == "INSTRUMENT_DECLINED")

reserved = client.orders.authorize_order(asked(id=approved("AUTHORIZE"))).body
authorization = reserved.purchase_units[0].payments.authorizations[0]
check("an order is authorized", authorization.status == "CREATED")
part = asked(authorization_id=authorization.id, body={"amount": usd("10.00"), "final_capture": False})
check("an authorization is captured in part", client.payments.capture_authorized_payment(part).body.amount.value == "10.00")
shown = client.payments.get_authorized_payment({"authorization_id": authorization.id}).body
check("an authorization is read", shown.status == "PARTIALLY_CAPTURED")
voided = client.payments.void_payment({"authorization_id": authorization.id})
check("the rest is let go of", voided.status_code == 204)
