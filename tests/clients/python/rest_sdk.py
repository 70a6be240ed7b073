"""Drives the sandbox through PyPI paypalrestsdk, the only official client with a verifier of webhooks."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import paypalrestsdk
from paypalrestsdk import Webhook, WebhookEvent, WebhookEventType

from sandbox import BASE, CLIENT_ID, CLIENT_SECRET, DIR, WEBHOOK_ID, check, control

# with a slash at the end, newer Pythons join ids to these paths wrongly
Webhook.path = "/v1/notifications/webhooks"
WebhookEvent.path = "/v1/notifications/webhooks-events"
WebhookEventType.path = "/v1/notifications/webhooks-event-types"
# our own root instead of the two that it brings along
WebhookEvent._WebhookEvent__cert_chain_path = [os.path.join(os.path.abspath(DIR), "root.pem")]
paypalrestsdk.set_config(mode="sandbox", endpoint=BASE, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)

inbox, arrived = [], threading.Condition()


class Shop(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.send_response(200)
        self.end_headers()
        with arrived:
            inbox.append((self.headers, body))
            arrived.notify_all()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Shop)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
control("settings", {"webhook_url": f"{url}/first"})


def delivery_about(order_id, number=1):
    """The first delivery about an order, or a later one; retries of what others have caused arrive as well."""
    about = lambda: [one for one in inbox if json.loads(one[1])["resource"]["id"] == order_id]
    with arrived:
        check("a webhook arrives", arrived.wait_for(lambda: len(about()) >= number, timeout=20))
        return about()[number - 1]


def verifies(headers, body, webhook_id=WEBHOOK_ID):
    return WebhookEvent.verify(
        headers["paypal-transmission-id"],
        headers["paypal-transmission-time"],
        webhook_id,
        body,
        headers["paypal-cert-url"],
        headers["paypal-transmission-sig"],
        headers["paypal-auth-algo"],
    )


def approve():
    """Makes something happen that a webhook tells of."""
    api = paypalrestsdk.api.default()
    unit = {"amount": {"currency_code": "USD", "value": "1.00"}}
    order = api.post("v2/checkout/orders", {"intent": "CAPTURE", "purchase_units": [unit]})
    control(f"orders/{order['id']}/approve")
    return order["id"]


headers, body = delivery_about(approve())
check("and verifies with the official verifier", verifies(headers, body))
check("but not when its body is changed", not verifies(headers, body.replace("APPROVED", "COMPLETED", 1)))
check("nor for another webhook", not verifies(headers, body, "8PT597110X687430L"))
for kind in ["bad_signature", "tamper", "foreign_ca", "expired_cert", "wrong_webhook_id"]:
    control("faults", {"on": "webhook", "kind": kind})
    check(f"{kind} is found out", not verifies(*delivery_about(approve())))
control("faults", {"on": "webhook", "kind": "same_crc"})
check("same_crc is not: a signature proves no body", verifies(*delivery_about(approve())))
control("certificates/rotate")
order_id = approve()
check("a renewed certificate verifies", verifies(*delivery_about(order_id)))

webhook = Webhook({"url": f"{url}/second", "event_types": [{"name": "PAYMENT.CAPTURE.COMPLETED"}]})
check("a webhook is created", webhook.create() and webhook.id)
check("and found", Webhook.find(webhook.id).url == f"{url}/second")
check("and listed", any(one.id == webhook.id for one in Webhook.all().webhooks))
changed = webhook.replace([{"op": "replace", "path": "/event_types", "value": [{"name": "*"}]}])
check("and changed", changed and Webhook.find(webhook.id).event_types[0].name == "*")
check("and its event types are read", webhook.get_event_types().event_types[0].name == "*")
check("and deleted", webhook.delete())
check("all event types are listed", len(WebhookEventType.all().event_types) > 10)

events = WebhookEvent.all({"page_size": 3}).events
check("events are listed", len(events) == 3)
event = WebhookEvent.find(next(one.id for one in events if one.resource.id == order_id))
check("an event is found", event.event_type == "CHECKOUT.ORDER.APPROVED")
check("and sent once more", event.resend())
headers, body = delivery_about(order_id, 2)
check("with its own id and a signature that verifies", json.loads(body)["id"] == event.id and verifies(headers, body))
