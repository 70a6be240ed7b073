//! The API's shapes, and everything that one can say wrongly to it: always an answer, always a problem with a code, never
//! a fault of ours.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Map, Value, json};
use souk_actors::domain::SkuId;

use crate::support::{
    eventually,
    shop::{Answer, Placed, STAFF, TestShop, basket, fresh, paid_basket},
};

/// Every route of the API, as clients were promised it.
const ROUTES: &[(&str, &str)] = &[
    ("get", "/v1/products"),
    ("get", "/v1/products/{slug}"),
    ("get", "/v1/skus/{sku_id}"),
    ("get", "/v1/sales"),
    ("get", "/v1/sales/{sale_id}"),
    ("post", "/v1/sales/{sale_id}/room"),
    ("get", "/v1/sales/{sale_id}/room"),
    ("get", "/v1/sales/{sale_id}/room/stream"),
    ("get", "/v1/skus/{sku_id}/stock"),
    ("get", "/v1/skus/{sku_id}/stock/stream"),
    ("post", "/v1/admin/sales"),
    ("get", "/v1/admin/sales"),
    ("get", "/v1/admin/sales/{sale_id}"),
    ("patch", "/v1/admin/sales/{sale_id}"),
    ("post", "/v1/admin/sales/{sale_id}/cancel"),
    ("post", "/v1/shipping/quotes"),
    ("post", "/v1/shipping/addresses"),
    ("post", "/v1/checkouts"),
    ("get", "/v1/orders/{order_id}"),
    ("get", "/v1/orders/{order_id}/events"),
    ("post", "/v1/orders/{order_id}/payments"),
    ("post", "/v1/orders/{order_id}/cancel"),
    ("get", "/v1/orders/{order_id}/shipments"),
    ("post", "/v1/orders/{order_id}/returns"),
    ("get", "/v1/orders/{order_id}/returns"),
    ("post", "/v1/webhooks/paypal"),
    ("post", "/v1/webhooks/shippo"),
    ("post", "/v1/admin/orders/{order_id}/cancel"),
    ("post", "/v1/admin/orders/{order_id}/capture"),
    ("post", "/v1/admin/orders/{order_id}/hold"),
    ("post", "/v1/admin/orders/{order_id}/notes"),
    ("post", "/v1/admin/orders/{order_id}/refunds"),
    ("post", "/v1/admin/orders/{order_id}/release"),
    ("post", "/v1/admin/orders/{order_id}/shipments"),
    ("get", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/label"),
    ("post", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/label"),
    ("post", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/void"),
    ("post", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/write-off"),
    ("post", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/ship"),
    ("post", "/v1/admin/orders/{order_id}/shipments/{shipment_id}/deliver"),
    ("get", "/v1/admin/returns"),
    ("get", "/v1/admin/returns/{return_id}"),
    ("post", "/v1/admin/returns/{return_id}/approve"),
    ("post", "/v1/admin/returns/{return_id}/decline"),
    ("post", "/v1/admin/returns/{return_id}/sent"),
    ("post", "/v1/admin/returns/{return_id}/receive"),
    ("post", "/v1/admin/returns/{return_id}/inspect"),
    ("post", "/v1/admin/returns/{return_id}/close"),
    ("post", "/v1/admin/products"),
    ("patch", "/v1/admin/products/{product_id}"),
    ("post", "/v1/admin/skus/{sku_id}/stock"),
    ("get", "/v1/admin/skus/{sku_id}/ledger"),
    ("post", "/v1/admin/stock/imports"),
    ("get", "/v1/admin/stock/imports"),
    ("get", "/v1/admin/stock/imports/{import_id}"),
    ("get", "/v1/admin/stock/imports/{import_id}/errors"),
    ("get", "/v1/admin/orders"),
    ("post", "/v1/admin/webhook-subscriptions"),
    ("get", "/v1/admin/webhook-subscriptions"),
    ("get", "/v1/admin/webhook-subscriptions/{subscription_id}"),
    ("patch", "/v1/admin/webhook-subscriptions/{subscription_id}"),
    ("delete", "/v1/admin/webhook-subscriptions/{subscription_id}"),
    ("post", "/v1/admin/webhook-subscriptions/{subscription_id}/test"),
    ("get", "/v1/admin/webhook-subscriptions/{subscription_id}/deliveries"),
    ("post", "/v1/admin/webhook-subscriptions/{subscription_id}/deliveries/{notice_id}/replay"),
    ("get", "/v1/ops/actors"),
    ("post", "/v1/ops/actors/release"),
    ("get", "/v1/ops/journal"),
    ("get", "/v1/ops/audit"),
    ("get", "/v1/ops/dead-letters"),
    ("post", "/v1/ops/dead-letters/{notice_id}/replay"),
    ("post", "/v1/ops/dead-letters/replay"),
    ("post", "/v1/ops/clock"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
];

/// Values that fit nowhere, as they stand in JSON.
fn misfits() -> Vec<String> {
    let mut misfits: Vec<String> = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e400",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999999999",
        "\"\"",
        "\" \"",
        "\"x\"",
        "\"-1\"",
        "\"1e9\"",
        "\"NaN\"",
        "\"99999999999999999999.99\"",
        "\"\\u0000\"",
        "\"a\\u0000b\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u202e\"",
        "\"'; drop table stock; --\"",
        "[]",
        "{}",
        "[[[[]]]]",
        "{\"\\u0000\":1}",
    ]
    .map(str::to_owned)
    .into();
    misfits.push(format!("\"{}\"", "long".repeat(20_000)));
    misfits.push("[".repeat(500) + &"]".repeat(500));
    misfits
}

/// Every place in a value: the pointer to it.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    if !at.is_empty() {
        found.push(at.to_owned());
    }
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| places(item, &format!("{at}/{n}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The body with something else in one place. A marker is replaced as text, for not every number fits a `Value`.
fn with(body: &Value, place: &str, misfit: &str) -> String {
    let mut body = body.clone();
    *body.pointer_mut(place).expect("it is there") = json!("@marker@");
    body.to_string().replace("\"@marker@\"", misfit)
}

/// A shop with something to sell, and an order.
struct Counter {
    shop: TestShop,
    product_id: String,
    sku_id: String,
    placed: Placed,
}

impl Counter {
    async fn open() -> Self {
        let shop = TestShop::open().await;
        let sku = json!({ "code": fresh("SKU"), "price": "12.50", "on_hand": 1_000 });
        let product = json!({ "name": fresh("Lamp"), "currency": "USD", "skus": [sku] });
        let made = shop.order_staff("/v1/admin/products", product).await.ok();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let (product_id, sku_id) = (text(&made["product_id"]), text(&made["skus"][0]["sku_id"]));
        let placed = shop.place(basket(&[(&sku_id, 1)])).await;
        Self { shop, product_id, sku_id, placed }
    }

    /// Everything that takes a body, with one that it takes.
    fn posts(&self) -> Vec<(Method, String, Value)> {
        let Self { product_id, sku_id, placed, .. } = self;
        let mut checkout = basket(&[(sku_id, 1)]);
        checkout["shipping_address"]["line2"] = json!("Flat 2");
        checkout["expected_total"] = json!({ "amount": "12.50", "currency": "USD" });
        checkout["shipping_option"] = json!("an.option");
        let address = checkout["shipping_address"].clone();
        let line = json!({ "sku_id": sku_id, "quantity": 1 });
        let parcel = json!({ "lines": [line], "currency": "USD", "shipping_address": address });
        let sku = json!({ "code": "CODE", "price": "12.50", "on_hand": 1, "grams": 450, "length_mm": 100, "width_mm": 80,
            "height_mm": 60 });
        let product =
            json!({ "name": "Lamp", "currency": "USD", "description": "Bright.", "slug": "lamp", "skus": [sku] });
        let price = json!({ "sku_id": sku_id, "price": "13.00", "currency": "USD", "grams": 450, "length_mm": 100,
            "width_mm": 80, "height_mm": 60 });
        let change = json!({ "name": "Lamp", "description": "Brighter.", "skus": [price] });
        vec![
            (Method::POST, "/v1/shipping/quotes".into(), parcel),
            (Method::POST, "/v1/shipping/addresses".into(), address),
            (Method::POST, "/v1/checkouts".into(), checkout),
            (Method::POST, placed.path("/payments"), json!({ "provider": "paypal" })),
            (Method::POST, "/v1/admin/products".into(), product),
            (Method::PATCH, format!("/v1/admin/products/{product_id}"), change),
            (Method::POST, format!("/v1/admin/skus/{sku_id}/stock"), json!({ "delta": 1, "reason": "counted" })),
            (Method::POST, "/v1/ops/actors/release".into(), json!({ "name": "sku/x" })),
            (Method::POST, "/v1/ops/clock".into(), json!({ "advance_seconds": 0 })),
        ]
    }

    async fn send(&self, method: &Method, path: &str, body: String) -> Answer {
        let request = self.shop.request(method.clone(), path).header("content-type", "application/json");
        let request = request.header("idempotency-key", fresh("odd")).bearer_auth(STAFF).body(body);
        Answer::of(request).await.expect("an answer")
    }
}

/// It is an answer, and if it is a refusal, it is told as refusals are.
#[track_caller]
fn civil(answer: &Answer, what: &str) {
    assert!(answer.status < 500, "{what}: {} {}", answer.status, answer.text);
    if answer.status >= 400 {
        answer.is_well_told();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_a_body_is_a_fault_of_ours() {
    let counter = Counter::open().await;
    for (method, path, body) in counter.posts() {
        let mut all = Vec::new();
        places(&body, "", &mut all);
        for place in &all {
            for misfit in misfits() {
                let answer = counter.send(&method, &path, with(&body, place, &misfit)).await;
                let what = format!("{path} {place} {}", misfit.chars().take(60).collect::<String>());
                civil(&answer, &what);
                if misfit.contains("u0000") {
                    assert!([404, 422].contains(&answer.status), "{what}: {} {}", answer.status, answer.text);
                }
            }
            // a field too many, in every object
            let mut more = body.clone();
            if let Some(Value::Object(fields)) = more.pointer_mut(place) {
                fields.insert("surplus".to_owned(), json!(1));
                counter.send(&method, &path, more.to_string()).await.is_problem(422, "invalid");
            }
            // a field too few
            let mut less = body.clone();
            let (parent, name) = place.rsplit_once('/').expect("a pointer");
            if let Some(Value::Object(fields)) = less.pointer_mut(parent) {
                fields.remove(name);
                civil(&counter.send(&method, &path, less.to_string()).await, &format!("{path} without {place}"));
            }
        }
        let mut more = body.clone();
        more["surplus"] = json!(1);
        counter.send(&method, &path, more.to_string()).await.is_problem(422, "invalid");

        for text in ["", "{", "[]", "null", "\"x\"", "{} {}", "\u{0}", "{\"lines\":"] {
            let answer = counter.send(&method, &path, text.to_owned()).await;
            assert!([400, 422].contains(&answer.status), "{path} {text:?}: {} {}", answer.status, answer.text);
            answer.is_well_told();
        }
        let huge = format!("{{\"x\":\"{}\"}}", "a".repeat(2 << 20));
        counter.send(&method, &path, huge).await.is_problem(413, "too_large");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            let request = counter.shop.request(method.clone(), &path).bearer_auth(STAFF);
            let request = request.header("idempotency-key", fresh("odd")).header("content-type", kind);
            let answer = Answer::of(request.body(body.to_string())).await.expect("an answer");
            answer.is_problem(415, "not_json");
        }
    }
    counter.shop.close().await;
}

/// A body that is well for a route, so that nothing but the address can be wrong.
fn fitting(route: &str) -> Value {
    let units = json!([{ "line": 0, "quantity": 1 }]);
    match route.rsplit('/').next().expect("the last part") {
        "{product_id}" => json!({ "name": "x" }),
        "{subscription_id}" => json!({ "description": "x" }),
        "stock" => json!({ "delta": 1, "reason": "x" }),
        "payments" => json!({ "provider": "paypal" }),
        "notes" => json!({ "text": "x" }),
        "hold" | "cancel" | "refunds" | "decline" => json!({ "reason": "x" }),
        "shipments" => json!({ "parcel": { "length_mm": 1, "width_mm": 1, "height_mm": 1, "grams": 1 } }),
        "returns" => json!({ "lines": [{ "line": 0, "quantity": 1, "reason": "x" }] }),
        "receive" => json!({ "lines": units }),
        "inspect" => json!({ "lines": [{ "line": 0, "restock": 1 }] }),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_an_address_is_a_fault_of_ours() {
    let counter = Counter::open().await;
    let shop = &counter.shop;
    let long = "x".repeat(5_000);
    let odd_ids = [
        "x",
        "order_",
        "order_0000000000000",
        "sku_zzzzzzzzzzzzz",
        "product_0000000000001",
        "%00",
        "order_%00",
        "..",
        "-1",
        "0",
        "9223372036854775808",
        "%F0%9F%98%80",
        "%FF%FE",
        "a%2Fb",
        "'%3B--",
        &long,
    ];
    for (method, route) in ROUTES {
        let method: Method = method.to_uppercase().parse().expect("a method");
        let Some((before, rest)) = route.split_once('{') else { continue };
        let after = rest.split_once('}').expect("a placeholder").1;
        for id in odd_ids {
            let path = format!("{before}{id}{after}");
            let request =
                shop.request(method.clone(), &path).bearer_auth(STAFF).header("idempotency-key", fresh("odd"));
            let answer = Answer::of(request.json(&fitting(route))).await.expect("an answer");
            assert!([400, 404, 405].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
            answer.is_well_told();
        }
    }
    let ledger = format!("/v1/admin/skus/{}/ledger", counter.sku_id);
    for list in ["/v1/products", "/v1/admin/orders", &ledger] {
        for query in [
            "limit=0",
            "limit=-1",
            "limit=101",
            "limit=x",
            "limit=99999999999999999999",
            "limit=1&limit=2",
            "cursor=x",
            "cursor=",
            "cursor=%00",
            "cursor=-1e9",
            "status=x",
            "status=%00",
            "surplus=1",
            "limit",
            "%FF=%FF",
            "&&&",
            "limit=1%00",
        ] {
            let answer = shop.see(&format!("{list}?{query}")).await;
            civil(&answer, &format!("{list}?{query}"));
            assert!(answer.status != 200 || query == "&&&" || query == "cursor=-1e9", "{list}?{query} {}", answer.text);
        }
    }
    for path in ["/", "/nowhere", "/v1", "/v1/", "/v1/orders", "//", "/%00", "/orders/x", "/orders/x/return"] {
        civil(&shop.get(path).await, path);
    }
    shop.get("/nowhere").await.is_problem(404, "not_found");
    for (_, path) in ROUTES.iter().filter(|(_, path)| !ROUTES.contains(&("delete", path))) {
        let path = path.replace("{order_id}", &counter.placed.order_id).replace("{slug}", "lamp");
        let path = path.replace("{sku_id}", &counter.sku_id).replace("{product_id}", &counter.product_id);
        let answer = Answer::of(shop.request(Method::DELETE, &path)).await.expect("an answer");
        answer.is_problem(405, "method_not_allowed");
        assert!(!answer.header("allow").is_empty(), "{path} says what is allowed");
    }
    counter.shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staff_routes_are_for_staff() {
    let counter = Counter::open().await;
    let shop = &counter.shop;
    for (method, path) in ROUTES.iter().filter(|(_, path)| path.starts_with("/v1/admin") || path.starts_with("/v1/ops"))
    {
        let method: Method = method.to_uppercase().parse().expect("a method");
        let path = path.replace("{sku_id}", &counter.sku_id).replace("{product_id}", &counter.product_id);
        let half = &STAFF[..STAFF.len() - 1];
        for header in [
            None,
            Some(String::new()),
            Some("Bearer".into()),
            Some("Bearer ".into()),
            Some("Bearer x".into()),
            Some(format!("Basic {STAFF}")),
            Some(STAFF.to_owned()),
            Some(format!("Bearer {half}")),
            Some(format!("Bearer {STAFF}x")),
            Some(format!("Bearer {}", counter.placed.token)),
        ] {
            let mut request = shop.request(method.clone(), &path).json(&json!({}));
            if let Some(header) = &header {
                request = request.header("authorization", header);
            }
            let answer = Answer::of(request).await.expect("an answer");
            answer.is_problem(401, "unauthorised");
        }
    }
    counter.shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_its_buyers_business() {
    let counter = Counter::open().await;
    let (shop, mine) = (&counter.shop, &counter.placed);
    let other = shop.place(basket(&[(&counter.sku_id, 1)])).await;
    let nobody = "order_0000000000000";
    for (method, rest) in
        [(Method::GET, ""), (Method::GET, "/events"), (Method::POST, "/payments"), (Method::POST, "/cancel")]
    {
        let ask = async |order_id: &str, token: &str| {
            let path = format!("/v1/orders/{order_id}{rest}{token}");
            let request = shop.request(method.clone(), &path).json(&json!({ "provider": "paypal" }));
            Answer::of(request).await.expect("an answer")
        };
        let id = mine.order_id.as_str();
        for wrong in [&other.token, "", "x", "%00", &mine.token[1..], &format!("{}A", mine.token), STAFF] {
            ask(id, &format!("?token={wrong}")).await.is_problem(404, "not_found");
        }
        // a stranger cannot tell an order that exists from one that does not
        assert_eq!(ask(id, "?token=x").await.text, ask(nobody, "?token=x").await.text);
        assert_eq!(ask(id, "").await.text, ask(nobody, "").await.text);
        ask(id, "").await.is_problem(401, "token_required");
        ask(nobody, &format!("?token={}", mine.token)).await.is_problem(404, "not_found");
    }
    assert_eq!(shop.status(mine).await, ("awaiting_payment".into(), "unpaid".into()), "nobody has called it off");
    assert_eq!(shop.see(&format!("/v1/orders/{}", mine.order_id)).await.ok(), shop.order(mine).await);
    shop.get(&format!("/orders/{}?token={}", mine.order_id, other.token)).await.is_problem(404, "not_found");
    counter.shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shapes_of_a_sale() {
    let shop = TestShop::open().await;
    let skus = [("A", "12.50"), ("B", "0.99")]
        .map(|(code, price)| json!({ "code": fresh(code), "price": price, "on_hand": 200 }));
    let product = json!({ "name": "The best mug!", "currency": "USD", "skus": skus });
    let made = shop.order_staff("/v1/admin/products", product).await;
    assert_eq!(made.status, 201);
    let product = made.body;
    assert_eq!(product["slug"], "the-best-mug");
    let (a, b) =
        (product["skus"][0]["sku_id"].as_str().expect("an id"), product["skus"][1]["sku_id"].as_str().expect("an id"));
    assert_eq!(shop.get("/v1/products/the-best-mug").await.ok(), product);
    let listed = shop.get("/v1/products?limit=1").await.ok();
    assert_eq!(listed["products"], json!([product]));
    let sku = shop.get(&format!("/v1/skus/{a}")).await.ok();
    assert_eq!((&sku["price"], &sku["available"]), (&json!({ "amount": "12.50", "currency": "USD" }), &json!(200)));

    // the same SKU twice is one line
    let answer = shop.checkout("k1", &paid_basket(&[(a, 2), (b, 1), (a, 1)])).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let sale = &answer.body;
    let usd = |amount: &str| json!({ "amount": amount, "currency": "USD" });
    let lines = json!([
        { "sku_id": a, "quantity": 3, "unit_price": usd("12.50"), "total": usd("37.50") },
        { "sku_id": b, "quantity": 1, "unit_price": usd("0.99"), "total": usd("0.99") },
    ]);
    assert_eq!((&sale["status"], &sale["lines"], &sale["total"]), (&json!("awaiting_payment"), &lines, &usd("38.49")));
    assert!(sale["approve_url"].as_str().is_some_and(|url| url.starts_with(&shop.bank.base)), "{sale}");
    let fields: Vec<&String> = sale.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["approve_url", "hold_expires_at", "lines", "order_id", "order_token", "status", "total"]);

    let placed = Placed::of(sale);
    let order = shop.order(&placed).await;
    assert_eq!(order["fulfilment_status"], "unfulfilled");
    assert_eq!(order["hold_expires_at"], sale["hold_expires_at"]);
    assert_eq!(shop.timeline(&placed).await, ["placed", "payment_started", "payment_announced"]);
    assert_eq!(shop.stock(a).await, (200, 3));

    // out of stock names every short line and what there is
    let short = shop.checkout("k2", &basket(&[(a, 198), (b, 1), (a, 1)])).await;
    short.is_problem(409, "out_of_stock");
    assert_eq!(short.body["lines"], json!([{ "sku_id": a, "requested": 199, "available": 197 }]));
    let short = shop.checkout("k2", &basket(&[(b, 200), (a, 198)])).await;
    let mut named: Vec<&str> =
        short.body["lines"].as_array().expect("a list").iter().filter_map(|l| l["sku_id"].as_str()).collect();
    named.sort_unstable();
    let mut both = [a, b];
    both.sort_unstable();
    assert_eq!(named, both);
    assert_eq!(shop.stock(b).await, (200, 1), "nothing of it was held");

    // a refusal is not remembered: the same key, once there is more
    let more = json!({ "delta": 2, "reason": "found behind the shelf" });
    assert_eq!(shop.order_staff(&format!("/v1/admin/skus/{a}/stock"), more).await.ok()["on_hand"], 202);
    assert_eq!(shop.checkout("k2", &basket(&[(a, 199)])).await.status, 201);
    let below = json!({ "delta": -1, "reason": "stolen" });
    shop.order_staff(&format!("/v1/admin/skus/{a}/stock"), below).await.is_problem(409, "below_reserved");
    let ledger = shop.ledger(a).await;
    let sums =
        ["d_on_hand", "d_reserved"].map(|field| ledger.iter().filter_map(|row| row[field].as_i64()).sum::<i64>());
    assert_eq!((sums[0], sums[1]), shop.stock(a).await);
    shop.close().await;
}

/// Staff who have counted say what they expected to find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_is_set_where_it_is_as_expected() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    shop.place(basket(&[(&sku_id, 4)])).await;
    let correct = async |sku_id: &str, key: &str, body: &Value| {
        let request = shop.request(Method::POST, &format!("/v1/admin/skus/{sku_id}/stock")).bearer_auth(STAFF);
        Answer::of(request.header("idempotency-key", key).json(body)).await.expect("an answer")
    };
    let counted = json!({ "set": 7, "expected": 10, "reason": "counted" });
    let seven = json!({ "sku_id": sku_id, "on_hand": 7, "reserved": 4, "available": 3 });
    assert_eq!(correct(&sku_id, "count", &counted).await.ok(), seven);
    assert_eq!(correct(&sku_id, "count", &counted).await.ok(), seven, "the answer was lost, and it is asked again");
    let ledger = shop.ledger(&sku_id).await;
    let adjusted: Vec<_> = ledger.iter().filter(|row| row["cause"] == "adjust").collect();
    let told = |row: &Value| (row["d_on_hand"].clone(), row["note"].clone(), row["who"].clone());
    assert_eq!(adjusted.into_iter().map(told).collect::<Vec<_>>(), [(json!(-3), json!("counted"), json!("staff"))]);

    let stale = correct(&sku_id, "stale", &counted).await;
    stale.is_problem(409, "stock_changed");
    assert_eq!(stale.body["on_hand"], 7);
    let below = correct(&sku_id, "below", &json!({ "set": 3, "expected": 7, "reason": "counted" })).await;
    below.is_problem(409, "below_reserved");
    assert_eq!(below.body["available"], 3);
    for unknown in [SkuId(i64::MAX).to_string(), "LAMP-1".to_owned()] {
        correct(&unknown, "unknown", &counted).await.is_problem(404, "not_found");
    }
    for (wrong, field) in [
        (json!({ "set": -1, "expected": 7, "reason": "x" }), "set"),
        (json!({ "set": 8, "expected": -1, "reason": "x" }), "expected"),
        (json!({ "set": 8, "reason": "x" }), "expected"),
        (json!({ "expected": 7, "reason": "x" }), "delta"),
        (json!({ "delta": 1, "set": 8, "expected": 7, "reason": "x" }), "delta"),
        (json!({ "set": 8, "expected": 7, "reason": " " }), "reason"),
    ] {
        let answer = correct(&sku_id, "wrong", &wrong).await;
        answer.is_problem(422, "invalid");
        assert_eq!(answer.body["field"], field, "{wrong}: {}", answer.text);
    }
    let other = json!({ "set": 9, "expected": 7, "reason": "counted again" });
    correct(&sku_id, "count", &other).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(shop.stock(&sku_id).await, (7, 4));

    // what was refused leaves its key free, and what was done stays done once the stock is another
    assert_eq!(correct(&sku_id, "stale", &other).await.ok()["on_hand"], 9);
    assert_eq!(correct(&sku_id, "count", &counted).await.ok()["on_hand"], 9, "as it is now");
    assert_eq!(shop.stock(&sku_id).await, (9, 4));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_quotes_and_limits() {
    let shop = TestShop::open().await;
    let sku = json!({ "code": fresh("SKU"), "price": "12.50", "on_hand": 50 });
    let made = shop
        .order_staff("/v1/admin/products", json!({ "name": fresh("Pot"), "currency": "USD", "skus": [sku] }))
        .await
        .ok();
    let sku_id = made["skus"][0]["sku_id"].as_str().expect("an id");
    let one = basket(&[(sku_id, 1)]);

    shop.post("/v1/checkouts", one.clone()).await.is_problem(400, "idempotency_key_missing");
    for key in ["", &"k".repeat(256), "caf\u{e9}", "a\tb"] {
        let request = shop.request(Method::POST, "/v1/checkouts").header("idempotency-key", key.as_bytes()).json(&one);
        Answer::of(request).await.expect("an answer").is_problem(400, "invalid_idempotency_key");
    }
    let twice =
        shop.request(Method::POST, "/v1/checkouts").header("idempotency-key", "a").header("idempotency-key", "b");
    Answer::of(twice.json(&one)).await.expect("an answer").is_problem(400, "invalid_idempotency_key");
    assert_eq!(shop.checkout(&"k".repeat(255), &one).await.status, 201);

    // replay: the same answer, whatever has changed; another body is another matter
    let first = shop.checkout("sale", &one).await;
    let change = json!({ "skus": [{ "sku_id": sku_id, "price": "20.00", "currency": "USD" }] });
    let path = format!("/v1/admin/products/{}", made["product_id"].as_str().expect("an id"));
    let changed =
        Answer::of(shop.request(Method::PATCH, &path).bearer_auth(STAFF).json(&change)).await.expect("an answer").ok();
    assert_eq!(changed["skus"][0]["price"]["amount"], "20.00");
    let again = shop.checkout("sale", &one).await;
    assert_eq!((again.status, again.header("idempotent-replayed"), &again.body), (201, "true", &first.body));
    assert_eq!(first.header("idempotent-replayed"), "");
    shop.checkout("sale", &basket(&[(sku_id, 2)])).await.is_problem(422, "idempotency_key_reused");

    // whoever expects the old price is told the new one, and nothing is placed
    let mut expecting = one.clone();
    expecting["expected_total"] = json!({ "amount": "12.50", "currency": "USD" });
    let orders = shop.orders().await.len();
    let quote = shop.checkout("quote", &expecting).await;
    quote.is_problem(409, "quote_changed");
    assert_eq!(quote.body["total"], json!({ "amount": "20.00", "currency": "USD" }));
    assert_eq!(quote.body["lines"][0]["unit_price"]["amount"], "20.00");
    assert_eq!(shop.orders().await.len(), orders);
    expecting["expected_total"] = quote.body["total"].clone();
    assert_eq!(shop.checkout("quote", &expecting).await.status, 201, "the same key, for nothing was done with it");

    // and a replay of what was placed at an expected total is a replay, whatever it would cost now
    let change = json!({ "skus": [{ "sku_id": sku_id, "price": "21.00", "currency": "USD" }] });
    Answer::of(shop.request(Method::PATCH, &path).bearer_auth(STAFF).json(&change)).await.expect("an answer").ok();
    assert_eq!(shop.checkout("quote", &expecting).await.header("idempotent-replayed"), "true");

    let mut euros = one.clone();
    euros["currency"] = json!("EUR");
    shop.checkout("euros", &euros).await.is_problem(422, "invalid");
    for lines in [vec![], vec![(sku_id, 1); 1_001]] {
        shop.checkout("lines", &basket(&lines)).await.is_problem(422, "invalid");
    }
    for quantity in [0, -1, 1_000_001, i64::MAX] {
        shop.checkout("quantity", &basket(&[(sku_id, quantity)])).await.is_problem(422, "invalid");
    }
    assert_eq!(shop.checkout("repeated", &basket(&vec![(sku_id, 1); 40])).await.ok()["lines"][0]["quantity"], 40);
    shop.checkout("unknown", &basket(&[("sku_0000000000000", 1)])).await.is_problem(422, "invalid");

    // what costs nothing is sold at once
    let free = shop.sku_at("0.00", "USD", 3).await;
    let gift = shop.checkout("gift", &paid_basket(&[(&free, 2)])).await.ok();
    assert_eq!((&gift["status"], &gift["total"]["amount"]), (&json!("confirmed"), &json!("0.00")));
    assert_eq!(shop.status(&Placed::of(&gift)).await, ("confirmed".into(), "paid".into()));
    assert_eq!(shop.stock(&free).await, (3, 2));

    // staff's keys are their own
    let stock = format!("/v1/admin/skus/{sku_id}/stock");
    let count = async |delta: i64| {
        let body = json!({ "delta": delta, "reason": "counted" });
        let request = shop.request(Method::POST, &stock).bearer_auth(STAFF).header("idempotency-key", "sale");
        Answer::of(request.json(&body)).await.expect("an answer")
    };
    let before = shop.stock(sku_id).await;
    assert_eq!(count(5).await.ok(), count(5).await.ok());
    assert_eq!(shop.stock(sku_id).await, (before.0 + 5, before.1));
    count(6).await.is_problem(422, "idempotency_key_reused");
    count(i64::MIN).await.is_problem(422, "invalid");
    // and so are each guest's, whose address is not written down for it
    let mut others = basket(&[(sku_id, 2)]);
    others["email"] = json!("somebody.else@example.com");
    assert_eq!(shop.checkout("sale", &others).await.status, 201);
    assert_eq!(shop.count("select count(*) from idempotency where principal like '%@%'").await, 0);
    shop.close().await;
}

/// Clients that go away in the middle: the half that arrived does nothing, the whole that arrived is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_up() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(1_000).await;
    let body = basket(&[(&sku_id, 1)]).to_string();
    let addr = shop.base.trim_start_matches("http://").to_owned();
    let say = |key: &str, sent: usize, wait: Duration| {
        let head = format!(
            "POST /v1/checkouts HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut line = TcpStream::connect(&addr).expect("it listens");
        line.write_all(head.as_bytes()).expect("it is read");
        line.write_all(&body.as_bytes()[..sent]).expect("it is read");
        line.set_read_timeout(Some(wait)).expect("a time");
        let _heard = line.read(&mut [0; 16]).is_ok_and(|length| length > 0);
    };
    tokio::task::block_in_place(|| {
        for n in 0..20 {
            say(&format!("half-{n}"), body.len() / 2, Duration::from_millis(1));
            // hung up somewhere between the request and its answer
            say(&format!("whole-{n}"), body.len(), Duration::from_micros(1 + 400 * n));
        }
    });
    eventually("all that hung up are done with", async || {
        shop.count(
            "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in tr%'",
        )
        .await
            == 0
    })
    .await;
    // each of them asks again, and has one order
    for n in 0..20 {
        shop.checkout(&format!("half-{n}"), &basket(&[(&sku_id, 1)])).await.ok();
        shop.checkout(&format!("whole-{n}"), &basket(&[(&sku_id, 1)])).await.ok();
    }
    assert_eq!(shop.stock(&sku_id).await, (1_000, 40));
    assert_eq!(shop.orders().await.len(), 40);
    shop.close().await;
}

/// One who sends half of it and then nothing is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fall_asleep() {
    let shop = TestShop::with(&[("SOUK_HTTP__TIMEOUT_SECONDS", "1")]).await;
    let addr = shop.base.trim_start_matches("http://").to_owned();
    let answer = tokio::task::block_in_place(|| {
        let mut line = TcpStream::connect(&addr).expect("it listens");
        let head = format!("POST /v1/checkouts HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n");
        let rest = "Idempotency-Key: k\r\nContent-Length: 100\r\n\r\n{";
        line.write_all(format!("{head}{rest}").as_bytes()).expect("it is read");
        line.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
        let mut answer = [0; 2_000];
        let length = line.read(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    });
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("too_slow"), "{answer}");
    shop.close().await;
}

/// One who says nothing at all, or only a part of a head, keeps no place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_nothing_are_hung_up_on() {
    let shop = TestShop::with(&[("SOUK_HTTP__IDLE_SECONDS", "1")]).await;
    let addr = shop.base.trim_start_matches("http://").to_owned();
    for head in ["", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\n"] {
        let ended = tokio::task::block_in_place(|| {
            let mut line = TcpStream::connect(&addr).expect("it listens");
            line.write_all(head.as_bytes()).expect("it is read");
            line.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
            line.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
        });
        assert!(!matches!(ended, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{head:?}: {ended:?}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_describes_itself_without_the_internet() {
    let shop = TestShop::open().await;
    let document = shop.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        item.as_object().expect("methods").keys().map(|method| (method.clone(), path.clone())).collect()
    };
    let told: BTreeSet<(String, String)> = paths.iter().flat_map(methods).collect();
    let promised = ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(told, promised);
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("methods") {
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path} says what it is for");
        }
    }
    let mut missing = Vec::new();
    references(&document, &document, &mut missing);
    assert!(missing.is_empty(), "the document names what it does not hold: {missing:?}");

    let home = shop.get("/").await;
    assert_eq!((home.status, home.header("location")), (303, "/docs/"));
    let page = shop.get("/docs/").await;
    assert_eq!(page.status, 200);
    let mut parts = vec![page.text.clone()];
    for link in
        page.text.split('"').filter(|link| link.ends_with(".js") || link.ends_with(".css") || link.ends_with(".png"))
    {
        let part = shop.get(&format!("/docs/{}", link.trim_start_matches("./"))).await;
        assert_eq!(part.status, 200, "{link}");
        if link.contains("initializer") || link.contains("index.css") {
            parts.push(part.text);
        }
    }
    assert!(parts.len() > 1, "{}", page.text);
    for part in parts {
        assert!(!part.contains("http://") && !part.contains("https://") && !part.contains("\"//"), "{part}");
    }

    let metrics = shop.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text.contains("souk_http_request_seconds"), "{}", metrics.text);
    let without_names = metrics.text.replace("{order_id}", "").replace("{sku_id}", "");
    let line = without_names
        .lines()
        .find(|line| line.contains("\"sku_") || line.contains("/sku_") || line.contains("/order_"));
    assert_eq!(line, None, "no ids in labels");
    assert_eq!(shop.get("/healthz").await.ok(), json!({ "status": "alive" }));
    assert_eq!(shop.get("/readyz").await.ok(), json!({ "status": "ready" }));
    shop.close().await;
}

/// Every `$ref` leads somewhere.
fn references(value: &Value, document: &Value, missing: &mut Vec<String>) {
    match value {
        Value::Object(fields) => follow(fields, document, missing),
        Value::Array(items) => items.iter().for_each(|item| references(item, document, missing)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn follow(fields: &Map<String, Value>, document: &Value, missing: &mut Vec<String>) {
    if let Some(name) = fields.get("$ref").and_then(Value::as_str)
        && document.pointer(name.trim_start_matches('#')).is_none()
    {
        missing.push(name.to_owned());
    }
    fields.values().for_each(|field| references(field, document, missing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_shows_the_actors_of_a_sale() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let placed = shop.sold(&sku_id).await;
    let tree = shop.see("/v1/ops/actors").await.ok();
    let mut names = Vec::new();
    walk(&tree, &mut names);
    for wanted in
        ["souk", "journal", "skus", "orders", "payments", "payment/paypal", "reconciler", &format!("sku/{sku_id}")]
    {
        assert!(names.iter().any(|name| name == wanted), "{wanted} in {names:?}");
    }
    assert!(names.contains(&format!("order/{}", placed.order_id)), "{names:?}");
    let journal = shop.see("/v1/ops/journal").await.ok();
    assert!(journal["batches"].as_u64().is_some_and(|batches| batches > 0), "{journal}");
    shop.order_staff("/v1/ops/actors/release", json!({ "name": "sku/nobody" })).await.is_problem(404, "not_found");
    shop.close().await;
}

fn walk(node: &Value, names: &mut Vec<String>) {
    names.extend(node["name"].as_str().map(str::to_owned));
    node["children"].as_array().into_iter().flatten().for_each(|child| walk(child, names));
}
