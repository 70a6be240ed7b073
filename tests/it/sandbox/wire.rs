//! The wire, held against PayPal's own OpenAPI descriptions: every kind of answer and event that the sandbox gives, and
//! every kind of request that Souk sends. A field that PayPal does not describe is as wrong as one of the wrong type.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::Path,
};

use flate2::read::GzDecoder;
use jsonschema::{Draft, Validator};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Caller, Town, basket, basket_to_authorize, id, read, usd};
use crate::{
    paypal_table::end,
    support::{eventually, shop::TestShop},
};

/// What PayPal sends although the descriptions, of 2024, do not say so where it stands: the newer clients know it.
const UNDESCRIBED: [&str; 3] = [
    "/purchase_units/*/payments/captures/*/supplementary_data",
    "/purchase_units/*/payments/authorizations/*/supplementary_data",
    "/purchase_units/*/payments/authorizations/*/payee",
];

/// One of PayPal's descriptions.
struct Description {
    document: Value,
}

impl Description {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/paypal/{name}.json.gz"));
        let mut text = String::new();
        GzDecoder::new(File::open(path).expect("the file")).read_to_string(&mut text).expect("text");
        let mut document = serde_json::from_str(&text).expect("JSON");
        trim(&mut document);
        Self { document }
    }

    /// A validator of one component. OpenAPI 3.0 has the words of draft 4, as far as these documents use them: they have
    /// neither `nullable` nor `discriminator`.
    fn validator(&self, component: &str) -> Validator {
        let schema = json!({
            "$ref": format!("#/components/schemas/{component}"),
            "components": self.document["components"],
        });
        jsonschema::options().with_draft(Draft::Draft4).build(&schema).expect("a schema")
    }

    /// All that is wrong with it.
    fn faults(&self, component: &str, instance: &Value) -> Vec<String> {
        let validator = self.validator(component);
        let errors = validator.iter_errors(instance).map(|error| format!("{} at {}", error, error.instance_path));
        let mut faults: Vec<String> = errors.collect();
        let schema = &self.document["components"]["schemas"][component];
        self.find_strangers(&[schema], instance, "", &mut faults);
        faults.retain(|fault| !UNDESCRIBED.contains(&fault.as_str()));
        faults
    }

    /// Fields that none of these schemas describes.
    fn find_strangers(&self, schemas: &[&Value], instance: &Value, place: &str, faults: &mut Vec<String>) {
        if let Some(fields) = instance.as_object() {
            let known = self.properties(schemas);
            let open = schemas.iter().any(|schema| schema["additionalProperties"] == true);
            for (name, value) in fields {
                let place = format!("{place}/{name}");
                match known.get(name.as_str()) {
                    Some(schemas) => self.find_strangers(schemas, value, &place, faults),
                    None if open => {}
                    None => faults.push(place),
                }
            }
        }
        for one in instance.as_array().into_iter().flatten() {
            let items: Vec<&Value> = self.all(schemas).into_iter().map(|schema| &schema["items"]).collect();
            self.find_strangers(&items, one, &format!("{place}/*"), faults);
        }
    }

    /// The schemas with all that they refer to or are made of.
    fn all<'a>(&'a self, schemas: &[&'a Value]) -> Vec<&'a Value> {
        let mut found = Vec::new();
        let mut open: Vec<&Value> = schemas.to_vec();
        while let Some(schema) = open.pop() {
            found.push(schema);
            if let Some(reference) = schema["$ref"].as_str() {
                let pointer = reference.strip_prefix('#').expect("a reference within the document");
                open.push(self.document.pointer(pointer).expect("what it refers to"));
            }
            for parts in ["allOf", "anyOf", "oneOf"] {
                open.extend(schema[parts].as_array().into_iter().flatten());
            }
        }
        found
    }

    fn properties<'a>(&'a self, schemas: &[&'a Value]) -> BTreeMap<&'a str, Vec<&'a Value>> {
        let mut properties: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for schema in self.all(schemas) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                properties.entry(name).or_default().push(property);
            }
        }
        properties
    }

    #[track_caller]
    fn holds(&self, component: &str, instance: &Value) {
        let faults = self.faults(component, instance);
        assert!(faults.is_empty(), "not a {component}: {faults:#?}\n{instance:#}");
    }
}

/// Some of the words in the documents end with a space.
fn trim(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.trim_end().to_owned(),
        Value::Array(items) => items.iter_mut().for_each(trim),
        Value::Object(fields) => fields.values_mut().for_each(trim),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

struct Descriptions {
    orders: Description,
    payments: Description,
    webhooks: Description,
}

impl Descriptions {
    fn read() -> Self {
        let read = Description::read;
        let (orders, payments) = (read("checkout_orders_v2"), read("payments_payment_v2"));
        Self { orders, payments, webhooks: read("notifications_webhooks_v1") }
    }

    /// An event: its envelope, and the resource by its type.
    #[track_caller]
    fn hold_event(&self, event: &Value) {
        self.webhooks.holds("event", event);
        let resource = &event["resource"];
        match event["resource_type"].as_str() {
            Some("checkout-order") => self.orders.holds("order", resource),
            Some("authorization") => self.payments.holds("authorization-2", resource),
            Some("capture") => self.payments.holds("capture-2", resource),
            Some("refund") => self.payments.holds("refund", resource),
            Some("dispute") => {} // of an API that is not described here
            None => assert_eq!(event["event_type"], "CHECKOUT.PAYMENT-APPROVAL.REVERSED"),
            Some(other) => panic!("what is a {other}?"),
        }
    }

    /// A call of Souk's: its path is one of PayPal's, its body what PayPal takes there, and it has a key of its own.
    #[track_caller]
    fn hold_request(&self, call: &Value) {
        let on = call["on"].as_str().expect("a word");
        let (description, path, component) = match on {
            "create" => (&self.orders, "/v2/checkout/orders", "order_request"),
            "capture" => (&self.orders, "/v2/checkout/orders/{id}/capture", "order_capture_request"),
            "authorize" => (&self.orders, "/v2/checkout/orders/{id}/authorize", "order_authorize_request"),
            "refund" => (&self.payments, "/v2/payments/captures/{capture_id}/refund", "refund_request"),
            "capture_authorization" => {
                (&self.payments, "/v2/payments/authorizations/{authorization_id}/capture", "capture_request")
            }
            "void" => (&self.payments, "/v2/payments/authorizations/{authorization_id}/void", ""),
            "verify" => return, // its event is an answer of PayPal's, word for word
            other => panic!("nothing is known of {other}"),
        };
        let operation = &description.document["paths"][path]["post"];
        let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        if component.is_empty() {
            assert!(operation.is_object() && body.is_null(), "{path} takes nothing");
            assert_eq!(call["body"], json!({}), "{path}");
        } else {
            assert_eq!(*body, format!("#/components/schemas/{component}"), "{path}");
            description.holds(component, &call["body"]);
        }
        assert!(is_at(call["path"].as_str().expect("a path"), path), "{call} is not at {path}");
        assert!(call["request_id"].is_string(), "{call} has no key of its own");
    }
}

/// Whether a path has the parts of the pattern, whatever is where it says `{id}`.
fn is_at(path: &str, pattern: &str) -> bool {
    let fits = |(part, wanted): (&str, &str)| part == wanted || (wanted.starts_with('{') && !part.is_empty());
    path.split('/').count() == pattern.split('/').count() && path.split('/').zip(pattern.split('/')).all(fits)
}

impl Caller {
    async fn answer(&self, method: Method, path: &str, body: Value) -> Value {
        read(self.call(method, path).body(body.to_string()).send().await.expect("an answer")).await
    }
}

/// Everything that can become of orders, once; the answers by the component that describes them.
async fn live(town: &Town) -> Vec<(&'static str, Value)> {
    let caller = &town.caller;
    let mut seen = Vec::new();
    let (_, order) = caller.post("/v2/checkout/orders", "wallet", &basket()).await;
    seen.push(("order", order.clone()));
    let mut plain = basket();
    plain.as_object_mut().expect("an object").remove("payment_source");
    plain["purchase_units"][0]["shipping"] = json!({
        "name": {"full_name": "Ann Lee"},
        "address": {"address_line_1": "1 Main St", "admin_area_2": "Springfield", "country_code": "US"},
    });
    seen.push(("order", caller.post("/v2/checkout/orders", "plain", &plain).await.1));
    let order_path = format!("/v2/checkout/orders/{}", id(&order));
    seen.push(("error_422", caller.post(&format!("{order_path}/capture"), "early", &json!({})).await.1));
    seen.push(("error_404", caller.answer(Method::GET, "/v2/checkout/orders/NOSUCHORDER", json!(null)).await));
    seen.push(("error_400", caller.post("/v2/checkout/orders", "x", &json!({"intent": "GIFT"})).await.1));
    caller.control(&format!("orders/{}/approve", id(&order)), json!({})).await;
    seen.push(("order", caller.get(&order_path).await));

    let (_, order) = caller.capture(id(&order), "capture").await;
    seen.push(("order", order.clone()));
    let capture = order["purchase_units"][0]["payments"]["captures"][0].clone();
    let capture_path = format!("/v2/payments/captures/{}", id(&capture));
    seen.push(("capture-2", caller.get(&capture_path).await));
    let part = json!({"amount": usd("5.00"), "note_to_payer": "Sorry", "custom_id": "r-1", "invoice_id": "R-1"});
    seen.push(("refund", caller.post(&format!("{capture_path}/refund"), "r", &part).await.1));
    caller.control("settings", json!({"refunds": "pending"})).await;
    let (_, pending) = caller.post(&format!("{capture_path}/refund"), "r2", &part).await;
    seen.push(("refund", pending.clone()));
    seen.push(("refund", caller.control(&format!("refunds/{}", id(&pending)), json!({"status": "FAILED"})).await));
    let parcel =
        json!({"capture_id": id(&capture), "tracking_number": "9400", "carrier": "USPS", "items": [{"sku": "L"}]});
    seen.push(("order", caller.post(&format!("{order_path}/track"), "", &parcel).await.1));
    let dispute = caller.control(&format!("captures/{}/dispute", id(&capture)), json!({})).await;
    let dispute_path = format!("disputes/{}", dispute["dispute_id"].as_str().expect("an id"));
    caller.control(&dispute_path, json!({"resolve": "buyer"})).await;
    seen.push(("capture-2", caller.get(&capture_path).await));
    seen.push(("order", caller.get(&order_path).await));

    for (name, how) in [("slow", "pending"), ("declined", "capture"), ("partial", "partial")] {
        let order_id = caller.create(name).await;
        caller.control(&format!("orders/{order_id}/approve"), json!({"how": how})).await;
        seen.push(("order", caller.capture(&order_id, name).await.1));
    }
    let order_id = caller.create("forgotten").await;
    caller.control(&format!("orders/{order_id}/approve"), json!({})).await;
    caller.control(&format!("orders/{order_id}/expire"), json!({})).await;
    seen.push(("order", caller.get(&format!("/v2/checkout/orders/{order_id}")).await));
    seen.extend(live_authorized(caller).await);
    seen
}

async fn live_authorized(caller: &Caller) -> Vec<(&'static str, Value)> {
    let mut seen = Vec::new();
    for how in ["complete", "pending", "capture"] {
        let (_, order) = caller.post("/v2/checkout/orders", &format!("auth-{how}"), &basket_to_authorize()).await;
        caller.control(&format!("orders/{}/approve", id(&order)), json!({"how": how})).await;
        let path = format!("/v2/checkout/orders/{}/authorize", id(&order));
        let (_, order) = caller.post(&path, how, &json!({})).await;
        seen.push(("order_authorize_response", order.clone()));
        let authorization = &order["purchase_units"][0]["payments"]["authorizations"][0];
        let path = format!("/v2/payments/authorizations/{}", id(authorization));
        seen.push(("authorization-2", caller.get(&path).await));
        if how == "complete" {
            let part = json!({"amount": usd("5.00")});
            seen.push(("capture-2", caller.post(&format!("{path}/capture"), "c", &part).await.1));
            seen.push(("authorization-2", caller.get(&path).await));
            seen.push(("authorization-2", caller.post(&format!("{path}/void"), "v", &json!({})).await.1));
            seen.push(("error_422", caller.post(&format!("{path}/void"), "v", &json!({})).await.1));
        }
    }
    seen
}

#[tokio::test]
async fn every_answer_and_event_is_as_paypal_describes_it() {
    let paypal = Descriptions::read();
    let town = Town::new().await;
    for (component, answer) in live(&town).await {
        let payments = ["authorization-2", "capture-2", "refund"].contains(&component);
        let description = if payments { &paypal.payments } else { &paypal.orders };
        description.holds(component, &answer);
    }
    town.caller.settle().await;
    let told = town.merchant.inbox();
    told.iter().for_each(|delivery| paypal.hold_event(&delivery.event()));
    let types: BTreeSet<_> = told.iter().map(|delivery| delivery.event_type()).collect();
    assert!(types.len() >= 12, "enough was told: {types:?}");

    let caller = &town.caller;
    let webhook = json!({"url": "http://127.0.0.1:9/a", "event_types": [{"name": "*"}]});
    paypal.webhooks.holds("webhook", &caller.answer(Method::POST, "/v1/notifications/webhooks", webhook.clone()).await);
    paypal.webhooks.holds("error", &caller.answer(Method::POST, "/v1/notifications/webhooks", webhook).await);
    paypal.webhooks.holds("WebhookList", &caller.get("/v1/notifications/webhooks").await);
    paypal.webhooks.holds("EventTypeList", &caller.get("/v1/notifications/webhooks-event-types").await);
    paypal.webhooks.holds("EventList", &caller.get("/v1/notifications/webhooks-events?page_size=5").await);
}

/// A refusal has an issue that PayPal lists for this very call, in PayPal's words.
#[tokio::test]
async fn every_refusal_is_one_that_the_call_knows() {
    let paypal = Descriptions::read();
    let mut town = Town::new().await;
    let caller = &town.caller;
    let (order_id, capture) = caller.pay("a").await;
    let order = format!("/v2/checkout/orders/{order_id}");
    let open = format!("/v2/checkout/orders/{}", caller.create("open").await);
    let refund = format!("/v2/payments/captures/{}/refund", id(&capture));
    caller.control(&format!("captures/{}/dispute", id(&capture)), json!({})).await;
    let (_, to_authorize) = caller.post("/v2/checkout/orders", "auth", &basket_to_authorize()).await;
    let auth_order = format!("/v2/checkout/orders/{}", id(&to_authorize));
    caller.control(&format!("orders/{}/approve", id(&to_authorize)), json!({})).await;
    let (_, authorized) = caller.post(&format!("{auth_order}/authorize"), "auth", &json!({})).await;
    let authorization = &authorized["purchase_units"][0]["payments"]["authorizations"][0];
    let path = format!("/v2/payments/authorizations/{}", id(authorization));
    let (take, void, renew) = (format!("{path}/capture"), format!("{path}/void"), format!("{path}/reauthorize"));
    let euros = json!({"amount": {"currency_code": "EUR", "value": "1.00"}});
    let patch = json!([{"op": "replace", "path": "/purchase_units/@reference_id=='x'/custom_id", "value": "X"}]);

    let (orders, payments) = (&paypal.orders, &paypal.payments);
    let mut refusals = vec![
        (orders, "422", caller.post("/v2/checkout/orders", "x", &mismatched()).await),
        (orders, "orders.capture-422", caller.post(&format!("{open}/capture"), "x", &json!({})).await),
        (orders, "orders.capture-422", caller.post(&format!("{order}/capture"), "x", &json!({})).await),
        (orders, "orders.authorize-422", caller.post(&format!("{order}/authorize"), "x", &json!({})).await),
        (orders, "orders.authorize-422", caller.post(&format!("{auth_order}/authorize"), "x", &json!({})).await),
        (orders, "orders.patch-422", (422, caller.answer(Method::PATCH, &open, patch.clone()).await)),
        (orders, "orders.patch-422", (422, caller.answer(Method::PATCH, &order, patch).await)),
        (payments, "captures.refund-422", caller.post(&refund, "x", &json!({"amount": usd("1.00")})).await),
        (payments, "captures.refund-422", caller.post(&refund, "x", &json!({"amount": usd("31.00")})).await),
        (payments, "captures.refund-422", caller.post(&refund, "x", &euros).await),
        (payments, "422", caller.post(&take, "x", &euros).await),
        (payments, "422", caller.post(&take, "x", &json!({"amount": usd("40.00")})).await),
    ];
    caller.post(&take, "part", &json!({"amount": usd("1.00")})).await;
    refusals.push((payments, "authorizations.reauthorize-422", caller.post(&renew, "x", &json!({})).await));
    caller.post(&void, "v", &json!({})).await;
    refusals.push((payments, "authorizations.void-422", caller.post(&void, "x", &json!({})).await));
    refusals.push((payments, "422", caller.post(&take, "x", &json!({})).await));
    town.caller.wait(180 * 86_400).await;
    refusals.push((payments, "captures.refund-422", town.caller.post(&refund, "late", &json!({})).await));
    for (description, component, (status, problem)) in refusals {
        assert_eq!(status, 422, "{problem}");
        description.holds("error_422", &problem);
        let errors: Vec<_> = description.validator(component).iter_errors(&problem).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{component} knows no {problem}");
    }
    let unknown = json!({"details": [{"issue": "OUT_OF_INK", "description": "?"}]});
    assert!(!paypal.payments.validator("authorizations.void-422").is_valid(&unknown), "not everything is known");
}

/// A basket whose sum does not come out.
fn mismatched() -> Value {
    let mut basket = basket();
    basket["purchase_units"][0]["amount"]["value"] = json!("30.01");
    basket
}

#[tokio::test]
async fn a_broken_answer_is_found_out() {
    let paypal = Descriptions::read();
    let town = Town::new().await;
    let (order_id, capture) = town.caller.pay("a").await;
    let order = town.caller.get(&format!("/v2/checkout/orders/{order_id}")).await;
    for (description, component, answer) in
        [(&paypal.orders, "order", &order), (&paypal.payments, "capture-2", &capture)]
    {
        let mut places = Vec::new();
        leaves(answer, "", &mut places);
        assert!(places.len() > 15, "{places:?}");
        for place in places.iter().filter(|place| !place.contains("supplementary_data")) {
            let mut broken = answer.clone();
            *broken.pointer_mut(place).expect("it is there") = json!({"broken": true});
            assert!(!description.faults(component, &broken).is_empty(), "{place} may be anything");
        }
    }
    let changes = [
        ("/status", json!("PAID")),
        ("/amount/value", json!("12,50")),
        ("/amount/value", json!(12.5)),
        ("/amount/currency_code", json!("DOLLARS")),
        ("/create_time", json!("yesterday")),
        ("/status_details", json!({"reason": "NO_REASON"})),
        ("/surprise", json!(1)),
    ];
    for (place, value) in changes {
        let mut broken = capture.clone();
        let (parent, field) = place.rsplit_once('/').expect("a pointer");
        broken.pointer_mut(parent).expect("its parent")[field] = value.clone();
        assert!(!paypal.payments.faults("capture-2", &broken).is_empty(), "{place} = {value}");
    }
    let mut nameless = capture["amount"].clone();
    nameless.as_object_mut().expect("an object").remove("currency_code");
    assert!(!paypal.payments.faults("money", &nameless).is_empty());
}

/// Where the values are that hold no others.
fn leaves(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, &format!("{place}/{name}"), found))
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| leaves(value, &format!("{place}/{index}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => found.push(place.to_owned()),
    }
}

/// The other way round: what Souk sends is what PayPal takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_souk_is_as_paypal_describes_it() {
    let paypal = Descriptions::read();
    let mut seen = BTreeSet::new();
    for (shop, asks_for) in [
        (charges_at_once().await, ["create", "capture", "refund"].as_slice()),
        (reserves_first().await, &["create", "authorize", "capture_authorization", "void", "refund"]),
    ] {
        let calls = shop.bank.read("calls").await;
        let calls = calls["calls"].as_array().expect("a list");
        calls.iter().for_each(|call| paypal.hold_request(call));
        let asked: BTreeSet<_> = calls.iter().map(|call| call["on"].as_str().expect("a word").to_owned()).collect();
        assert!(asks_for.iter().all(|on| asked.contains(*on)), "{asks_for:?} of {asked:?}");
        seen.extend(asked);
        end(shop).await;
    }
    seen.remove("verify");
    let known = ["authorize", "capture", "capture_authorization", "create", "refund", "void"];
    assert!(seen.iter().eq(known), "Souk asks for something new, and no part of this story brings it about: {seen:?}");
}

/// A shop that charges when the buyer approves, and has charged once too late.
async fn charges_at_once() -> TestShop {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    shop.sold(&sku_id).await;
    let late = shop.sell(&sku_id).await;
    shop.bank.approve_as(&late, "pending").await;
    shop.becomes(&late, "awaiting_payment", "pending").await;
    shop.post(&late.path("/cancel"), json!({})).await;
    let capture_id = shop.bank.sheet(&late).await["captures"][0]["id"].as_str().expect("an id").to_owned();
    shop.bank.control(&format!("captures/{capture_id}/status"), json!({"status": "COMPLETED"})).await;
    eventually("it goes back", async || shop.bank.summary().await["refunds"] == 1).await;
    shop
}

/// A shop that reserves when the buyer approves: one reservation was taken and given back, another let go.
async fn reserves_first() -> TestShop {
    let shop = TestShop::with(&[("SOUK_CHECKOUT__INTENT", "authorise")]).await;
    let sku_id = shop.sku(5).await;
    let (taken, let_go) = (shop.sell(&sku_id).await, shop.sell(&sku_id).await);
    for placed in [&taken, &let_go] {
        shop.bank.approve(placed).await;
        shop.becomes(placed, "confirmed", "authorised").await;
    }
    shop.order_staff(&format!("/v1/admin/orders/{}/capture", taken.order_id), json!({})).await.ok();
    shop.becomes(&taken, "confirmed", "paid").await;
    shop.post(&taken.path("/cancel"), json!({})).await.ok();
    shop.becomes(&taken, "cancelled", "refunded").await;
    shop.post(&let_go.path("/cancel"), json!({})).await.ok();
    shop.becomes(&let_go, "cancelled", "unpaid").await;
    shop
}
