//! What sending costs: quotes by a carrier and by the shop itself, options that are believed only for what they were made
//! for, and the price of sending in an order. And the carrier's port against the sandbox's Shippo, in both its manners.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use souk_actors::{
    domain::{Address, Parcel, ProviderError, Service, ShipmentId},
    ports::{BuyLabel, Carrier, LabelStatus, TrackingStatus, Void},
};

use crate::support::{
    eventually,
    shop::{Answer, Bank, Placed, STAFF, TestShop, basket, fresh, paid_basket},
};

/// A post that goes to two countries, and a walk around the corner.
const METHODS: (&str, &str) = (
    "SOUK_SHIPPING__METHODS",
    r#"[{ code = "post", name = "Post", prices = { USD = "5.00", EUR = "4.50" }, free_above = { USD = "50.00" },
         countries = ["US", "DE"], estimated_days = 4 },
        { code = "walk", name = "By foot", prices = { USD = "9.00" } }]"#,
);
const NO_CARRIER: (&str, &str) = ("SOUK_SHIPPO__ENABLED", "false");
/// The profiles of the sandbox's Shippo: as documented, and as seen in the wild.
const PROFILES: [&str; 2] = ["strict", "observed"];

/// What a basket would ask to have sent.
fn parcel(basket: &Value) -> Value {
    json!({ "lines": basket["lines"], "currency": basket["currency"], "shipping_address": basket["shipping_address"] })
}

async fn ask(shop: &TestShop, basket: &Value) -> Answer {
    shop.post("/v1/shipping/quotes", parcel(basket)).await
}

async fn quote(shop: &TestShop, basket: &Value) -> Vec<Value> {
    let quoted = ask(shop, basket).await.ok();
    assert!(quoted["expires_at"].is_string(), "{quoted}");
    quoted["methods"].as_array().expect("a list").clone()
}

/// Names and prices.
fn priced(methods: &[Value]) -> Vec<(&str, &str)> {
    assert!(methods.iter().all(|method| method["option"].as_str().is_some_and(|option| option.len() < 1_000)));
    methods.iter().map(|method| (name(method), amount(method))).collect()
}

fn name(method: &Value) -> &str {
    method["name"].as_str().expect("a name")
}

fn amount(method: &Value) -> &str {
    method["price"]["amount"].as_str().expect("a price")
}

/// The basket, sent by the method of this name.
async fn sent_by(shop: &TestShop, name: &str, basket: &Value) -> Value {
    let methods = quote(shop, basket).await;
    let method = methods.iter().find(|method| method["name"] == name).unwrap_or_else(|| panic!("{name}: {methods:?}"));
    let mut basket = basket.clone();
    basket["shipping_option"] = method["option"].clone();
    basket
}

async fn fault(bank: &Bank, rule: Value) {
    bank.control("shippo/faults", rule).await;
}

async fn forgive(bank: &Bank) {
    bank.http.delete(format!("{}/_sandbox/shippo/faults", bank.base)).send().await.expect("an answer");
}

async fn profile(bank: &Bank, profile: &str) {
    bank.control("shippo/settings", json!({ "profile": profile })).await;
}

async fn labels(bank: &Bank) -> Value {
    let summary = bank.http.get(format!("{}/_sandbox/shippo/summary", bank.base));
    Answer::of(summary).await.expect("an answer").ok()
}

// ── quotes and checkouts ─────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_carriers_rate_is_chosen_and_paid_with_the_goods() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    for manner in PROFILES {
        profile(&shop.bank, manner).await;
        let methods = quote(&shop, &basket(&[(&sku_id, 1)])).await;
        let expected = [
            ("USPS Ground Advantage", "6.48"),
            ("USPS Priority Mail", "10.87"),
            ("UPS Ground", "12.46"),
            ("FedEx FedEx 2Day", "21.60"),
        ];
        assert_eq!(priced(&methods), expected, "{manner}");
        assert_eq!((&methods[1]["estimated_days"], &methods[1]["price"]["currency"]), (&json!(2), &json!("USD")));

        let chosen = sent_by(&shop, "USPS Priority Mail", &paid_basket(&[(&sku_id, 1)])).await;
        let placed = shop.checkout(&fresh("key"), &chosen).await.ok();
        let price = json!({ "amount": "10.87", "currency": "USD" });
        assert_eq!(placed["shipping"], json!({ "name": "USPS Priority Mail", "price": price }));
        assert_eq!(placed["total"]["amount"], "23.37");
        let placed = Placed::of(&placed);
        let order = shop.order(&placed).await;
        assert_eq!((&order["shipping"]["price"], &order["total"]["amount"]), (&price, &json!("23.37")));
        shop.bank.approve(&placed).await;
        shop.becomes(&placed, "confirmed", "paid").await;
    }
    let kept =
        "select count(*) from customer_order where shipping_minor = 1087 and shipping::jsonb = jsonb_build_object('provider',
        'shippo', 'carrier', 'usps', 'token', 'usps_priority', 'name', 'USPS Priority Mail')";
    assert_eq!(shop.count(kept).await, 2);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_abroad_is_quoted_and_a_currency_without_rates_is_not() {
    let shop =
        TestShop::with(&[METHODS, ("SOUK_SHIPPO__SERVICES", "ups_saver"), ("SOUK_SHIPPO__MARKUP_PERCENT", "10")]).await;
    let sku_id = shop.sku(10).await;
    let mut abroad = basket(&[(&sku_id, 1)]);
    abroad["shipping_address"]["country"] = json!("DE");
    // 58.90 and 6 times 1.60, a tenth more, rounded up
    let expected = [("Post", "5.00"), ("By foot", "9.00"), ("UPS Worldwide Saver", "75.35")];
    assert_eq!(priced(&quote(&shop, &abroad).await), expected);
    let pounds = shop.sku_at("9.00", "GBP", 10).await;
    let mut pounds = basket(&[(&pounds, 1)]);
    pounds["currency"] = json!("GBP");
    assert_eq!(quote(&shop, &pounds).await, Vec::<Value>::new());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_carrier_the_shops_own_methods_are_offered() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let sku_id = shop.sku(10).await;
    let cheap = basket(&[(&sku_id, 1)]);
    assert_eq!(priced(&quote(&shop, &cheap).await), [("Post", "5.00"), ("By foot", "9.00")]);
    let just_enough = basket(&[(&sku_id, 2), (&sku_id, 2)]);
    assert_eq!(priced(&quote(&shop, &just_enough).await), [("Post", "0.00"), ("By foot", "9.00")], "50.00 is enough");
    let mut elsewhere = cheap.clone();
    elsewhere["shipping_address"]["country"] = json!("TR");
    assert_eq!(priced(&quote(&shop, &elsewhere).await), [("By foot", "9.00")]);
    let euros = shop.sku_at("9.00", "EUR", 10).await;
    let mut euros = basket(&[(&euros, 1)]);
    euros["currency"] = json!("EUR");
    assert_eq!(priced(&quote(&shop, &euros).await), [("Post", "4.50")]);

    let placed = shop.checkout(&fresh("key"), &sent_by(&shop, "Post", &just_enough).await).await.ok();
    assert_eq!((&placed["shipping"]["price"]["amount"], &placed["total"]["amount"]), (&json!("0.00"), &json!("50.00")));
    let placed = shop.checkout(&fresh("key"), &cheap).await.ok();
    assert!(placed.get("shipping").is_none(), "none was chosen, and none is required: {placed}");
    let order = shop.order(&Placed::of(&placed)).await;
    assert!(order.get("shipping").is_none() && order["total"]["amount"] == "12.50", "{order}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goods_that_are_free_are_not_sent_for_nothing() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let sku_id = shop.sku_at("0.00", "USD", 10).await;
    let placed = shop.checkout(&fresh("key"), &sent_by(&shop, "Post", &paid_basket(&[(&sku_id, 1)])).await).await.ok();
    assert_eq!((&placed["status"], &placed["total"]["amount"]), (&json!("awaiting_payment"), &json!("5.00")));
    assert!(placed["approve_url"].is_string(), "{placed}");
    let placed = Placed::of(&placed);
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_is_believed_for_what_it_was_made_for() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let other_shop =
        TestShop::with(&[METHODS, NO_CARRIER, ("SOUK_SECRET", "what another shop makes its options with")]).await;
    let (sku_id, other_sku) = (shop.sku(10).await, shop.sku(10).await);
    let good = sent_by(&shop, "By foot", &basket(&[(&sku_id, 1), (&other_sku, 1)])).await;
    let option = good["shipping_option"].as_str().expect("text").to_owned();
    let (payload, tag) = option.split_once('.').expect("two halves");
    let foreign_sku = other_shop.sku(10).await;
    let foreign = sent_by(&other_shop, "By foot", &basket(&[(&foreign_sku, 1)])).await;
    let post = sent_by(&shop, "Post", &basket(&[(&sku_id, 1), (&other_sku, 1)])).await;
    let cheaper = post["shipping_option"].as_str().expect("text").split_once('.').expect("two halves").0;
    let long = "x".repeat(10_000);
    for wrong in [
        "",
        ".",
        "x",
        payload,
        &option[1..],
        &option[..option.len() - 1],
        &format!("{cheaper}.{tag}"),
        &long,
        foreign["shipping_option"].as_str().expect("text"),
    ] {
        let mut basket = good.clone();
        basket["shipping_option"] = json!(wrong);
        let answer = shop.checkout(&fresh("key"), &basket).await;
        answer.is_problem(422, "invalid");
        assert_eq!(answer.body["field"], "shipping_option", "{}", answer.text);
    }

    type Change = fn(&mut Value, &str);
    let mismatches: [(&str, Change); 5] = [
        ("two of one", |basket, sku_id| basket["lines"] = json!([{ "sku_id": sku_id, "quantity": 2 }])),
        ("fewer lines", |basket, _| drop(basket["lines"].as_array_mut().expect("a list").pop())),
        ("another unit", |basket, _| basket["lines"][0]["quantity"] = json!(2)),
        ("another postal code", |basket, _| basket["shipping_address"]["postal_code"] = json!("62702")),
        ("another country", |basket, _| basket["shipping_address"]["country"] = json!("DE")),
    ];
    for (what, change) in mismatches {
        let mut basket = good.clone();
        change(&mut basket, &sku_id);
        let answer = shop.checkout(&fresh("key"), &basket).await;
        assert_eq!(answer.code(), "shipping_option_mismatch", "{what}: {}", answer.text);
        answer.is_problem(409, "shipping_option_mismatch");
    }
    assert_eq!(shop.stock(&sku_id).await, (10, 0), "nothing was held for any of them");

    // what does not change the price of sending may change
    let mut basket = good.clone();
    basket["shipping_address"]["name"] = json!("Ann B. Lee");
    basket["shipping_address"]["line1"] = json!("2 Main St");
    basket["email"] = json!("bea@example.com");
    basket["lines"].as_array_mut().expect("a list").reverse();
    let placed = shop.checkout(&fresh("key"), &basket).await.ok();
    assert_eq!(placed["total"]["amount"], "34.00");
    other_shop.close().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_of_another_currency_buys_nothing() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let sku_id = shop.sku(10).await;
    let sku = json!([{ "sku_id": sku_id, "price": "11.00", "currency": "EUR" }]);
    let ledger = shop.get(&format!("/v1/skus/{sku_id}")).await.ok();
    let product = format!("/v1/admin/products/{}", ledger["product_id"].as_str().expect("an id"));
    let request = shop.request(Method::PATCH, &product).bearer_auth(STAFF).json(&json!({ "skus": sku }));
    Answer::of(request).await.expect("an answer").ok();
    let mut chosen = sent_by(&shop, "Post", &basket(&[(&sku_id, 1)])).await;
    chosen["currency"] = json!("EUR");
    let answer = shop.checkout(&fresh("key"), &chosen).await;
    answer.is_problem(409, "shipping_option_mismatch");
    assert!(answer.text.contains("another currency"), "{}", answer.text);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_ends_and_an_order_that_was_placed_with_it_does_not() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER, ("SOUK_SHIPPING__OPTION_SECONDS", "600")]).await;
    let sku_id = shop.sku(10).await;
    let (key, good) = (fresh("key"), sent_by(&shop, "By foot", &basket(&[(&sku_id, 1)])).await);
    shop.later(590).await;
    let placed = shop.checkout(&key, &good).await.ok();
    shop.later(11).await;
    shop.checkout(&fresh("key"), &good).await.is_problem(409, "shipping_option_expired");
    let again = shop.checkout(&key, &good).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    let again = again.ok();
    assert_eq!(
        (&again["order_id"], &again["shipping"], &again["total"]),
        (&placed["order_id"], &placed["shipping"], &placed["total"])
    );
    let other = sent_by(&shop, "Post", &basket(&[(&sku_id, 1)])).await;
    shop.checkout(&key, &other).await.is_problem(422, "idempotency_key_reused");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expected_total_is_with_shipping() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let sku_id = shop.sku(10).await;
    let mut chosen = sent_by(&shop, "Post", &basket(&[(&sku_id, 1)])).await;
    chosen["expected_total"] = json!({ "amount": "12.50", "currency": "USD" });
    let answer = shop.checkout(&fresh("key"), &chosen).await;
    answer.is_problem(409, "quote_changed");
    assert_eq!(
        (&answer.body["total"]["amount"], &answer.body["shipping"]["amount"]),
        (&json!("17.50"), &json!("5.00"))
    );
    chosen["expected_total"] = json!({ "amount": "17.50", "currency": "USD" });
    shop.checkout(&fresh("key"), &chosen).await.ok();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_may_want_a_method_to_be_chosen() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER, ("SOUK_SHIPPING__REQUIRED", "true")]).await;
    let sku_id = shop.sku(10).await;
    let answer = shop.checkout(&fresh("key"), &basket(&[(&sku_id, 1)])).await;
    answer.is_problem(422, "invalid");
    assert_eq!(answer.body["field"], "shipping_option");
    shop.checkout(&fresh("key"), &sent_by(&shop, "Post", &basket(&[(&sku_id, 1)])).await).await.ok();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_carrier_that_is_away_keeps_nobody_from_a_quote() {
    let shop = TestShop::with(&[METHODS, ("SOUK_SHIPPING__PATIENCE_SECONDS", "6")]).await;
    let sku_id = shop.sku(10).await;
    let wanted = basket(&[(&sku_id, 1)]);
    assert_eq!(quote(&shop, &wanted).await.len(), 6);
    for kind in [
        json!({ "kind": "drop_before" }),
        json!({ "kind": "drop_after" }),
        json!({ "kind": "hang" }),
        json!({ "kind": "delay", "ms": 60_000 }),
        json!({ "kind": "status", "status": 500 }),
        json!({ "kind": "status", "status": 429, "retry_after": 60 }),
        json!({ "kind": "status", "status": 401 }),
        json!({ "kind": "html" }),
        json!({ "kind": "garbage" }),
        json!({ "kind": "invalid", "field": "address_to", "message": "1 Main St is unknown", "nested": true }),
    ] {
        let mut rule = kind.clone();
        rule["on"] = json!("shipment");
        fault(&shop.bank, rule).await;
        let began = Instant::now();
        assert_eq!(priced(&quote(&shop, &wanted).await), [("Post", "5.00"), ("By foot", "9.00")], "{kind}");
        assert!(began.elapsed() < Duration::from_secs(50), "{kind} took {:?}", began.elapsed());
        forgive(&shop.bank).await;
    }
    assert_eq!(quote(&shop, &wanted).await.len(), 6, "and back");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placing_an_order_asks_no_carrier() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(10).await;
    let chosen = sent_by(&shop, "UPS Ground", &basket(&[(&sku_id, 1)])).await;
    let before = labels(&shop.bank).await["calls"].clone();
    fault(&shop.bank, json!({ "on": "any", "times": 0, "kind": "hang" })).await;
    let placed = shop.checkout(&fresh("key"), &chosen).await.ok();
    assert_eq!(placed["shipping"]["name"], "UPS Ground");
    assert_eq!(labels(&shop.bank).await["calls"], before);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_goes_by_what_the_goods_weigh() {
    let shop = TestShop::open().await;
    let sku = json!({ "code": fresh("SKU"), "price": "12.50", "on_hand": 10, "grams": 1_900 });
    let product = json!({ "name": fresh("Anvil"), "currency": "USD", "skus": [sku] });
    let made = shop.order_staff("/v1/admin/products", product).await.ok();
    let sku_id = made["skus"][0]["sku_id"].as_str().expect("an id");
    assert_eq!(made["skus"][0]["grams"], 1_900);
    let wanted = basket(&[(sku_id, 1)]);
    // 5.40 and 0.18 for each of 20 hundred grams
    assert_eq!(priced(&quote(&shop, &wanted).await)[0], ("USPS Ground Advantage", "9.00"));

    let path = format!("/v1/admin/products/{}", made["product_id"].as_str().expect("an id"));
    let change = async |sku: Value| {
        let request = shop.request(Method::PATCH, &path).bearer_auth(STAFF).json(&json!({ "skus": [sku] }));
        Answer::of(request).await.expect("an answer")
    };
    let changed = change(json!({ "sku_id": sku_id, "length_mm": 300, "width_mm": 200, "height_mm": 100 })).await.ok();
    let sku = &changed["skus"][0];
    assert_eq!(
        (&sku["grams"], &sku["length_mm"], &sku["price"]["amount"]),
        (&json!(1_900), &json!(300), &json!("12.50"))
    );
    change(json!({ "sku_id": sku_id, "grams": 900, "price": "13.00", "currency": "USD" })).await.ok();
    assert_eq!(priced(&quote(&shop, &wanted).await)[0], ("USPS Ground Advantage", "7.20"));
    for wrong in [
        json!({ "sku_id": sku_id, "grams": 0 }),
        json!({ "sku_id": sku_id, "grams": 1_000_001 }),
        json!({ "sku_id": sku_id, "length_mm": 10 }),
        json!({ "sku_id": sku_id, "length_mm": 10, "width_mm": 10, "height_mm": -1 }),
        json!({ "sku_id": sku_id, "price": "1.00" }),
        json!({ "sku_id": sku_id, "currency": "USD" }),
    ] {
        let answer = change(wrong.clone()).await;
        answer.is_problem(422, "invalid");
        assert!(answer.body["field"].is_string(), "{wrong}: {}", answer.text);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_quote_is_told() {
    let shop = TestShop::with(&[METHODS, NO_CARRIER]).await;
    let sku_id = shop.sku(10).await;
    let good = parcel(&basket(&[(&sku_id, 1)]));
    type Spoil = fn(&mut Value);
    let cases: [(Spoil, u16); 8] = [
        (|body| body["lines"] = json!([]), 422),
        (|body| body["lines"][0]["quantity"] = json!(0), 422),
        (|body| body["lines"][0]["sku_id"] = json!("sku_zzzzzzzzzzzzz"), 422),
        (|body| body["currency"] = json!("GBP"), 422),
        (|body| body["currency"] = json!("XXX"), 422),
        (|body| body["shipping_address"]["country"] = json!("us"), 422),
        (|body| body["shipping_address"]["city"] = json!("a\u{0}b"), 422),
        (|body| body["surplus"] = json!(1), 422),
    ];
    for (change, status) in cases {
        let mut body = good.clone();
        change(&mut body);
        shop.post("/v1/shipping/quotes", body).await.is_problem(status, "invalid");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_checked_by_the_carrier() {
    let shop = TestShop::open().await;
    let address = basket(&[])["shipping_address"].clone();
    let check = async |change: fn(&mut Value)| {
        let mut address = address.clone();
        change(&mut address);
        let check = shop.post("/v1/shipping/addresses", address).await.ok();
        assert!(check.get("suggested").is_none(), "{check}");
        (check["valid"] == true, check["messages"][0]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(check(|_| {}).await, (true, String::new()));
    let mut tower = address.clone();
    tower["line1"] = json!("1 Tower Plaza");
    let told = shop.post("/v1/shipping/addresses", tower).await.ok();
    assert_eq!(
        (&told["valid"], told["messages"].as_array().map(Vec::len)),
        (&json!(true), Some(1)),
        "a flat is missing"
    );
    let nowhere = check(|address| address["postal_code"] = json!("00000")).await;
    assert_eq!(nowhere, (false, "postal_code_not_found".to_owned()));
    // as it is seen in the wild, the carrier may say nothing at all
    profile(&shop.bank, "observed").await;
    assert_eq!(check(|_| {}).await, (true, "not_checked".to_owned()));
    profile(&shop.bank, "strict").await;

    fault(&shop.bank, json!({ "on": "address", "kind": "hang" })).await;
    shop.post("/v1/shipping/addresses", address.clone()).await.is_problem(503, "unavailable");
    fault(&shop.bank, json!({ "on": "address", "kind": "invalid", "field": "country", "message": "no" })).await;
    assert_eq!(shop.post("/v1/shipping/addresses", address.clone()).await.ok()["valid"], false);
    shop.post("/v1/shipping/addresses", json!({ "name": "Ann" })).await.is_problem(422, "invalid");
    shop.close().await;

    let alone = TestShop::with(&[NO_CARRIER]).await;
    let check = alone.post("/v1/shipping/addresses", address).await.ok();
    assert_eq!((&check["valid"], &check["messages"][0]["code"]), (&json!(true), &json!("not_checked")));
    alone.post("/v1/webhooks/shippo?token=souk", json!({})).await.is_problem(404, "not_found");
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_without_the_token_is_not_shippos() {
    let shop = TestShop::open().await;
    let news = json!({ "event": "track_updated", "data": { "carrier": "usps", "tracking_number": "1" } });
    for query in ["", "?token=", "?token=x", "?token=soukk", "?token=souk&token=x", "?other=souk"] {
        let answer = shop.post(&format!("/v1/webhooks/shippo{query}"), news.clone()).await;
        answer.is_problem(400, "bad_signature");
        assert!(!answer.text.contains("souk&"), "{}", answer.text);
    }
    assert_ne!(shop.post("/v1/webhooks/shippo?token=souk", news.clone()).await.status, 400, "the token opens");
    shop.close().await;

    let signed = TestShop::with(&[("SOUK_SHIPPO__WEBHOOK_SECRET", "hush")]).await;
    signed.post("/v1/webhooks/shippo?token=souk", news.clone()).await.is_problem(400, "bad_signature");
    let url = format!("{}/v1/webhooks/shippo?token=souk", signed.base);
    signed.bank.control("shippo/settings", json!({ "webhook_url": url, "webhook_secret": "hush" })).await;
    for (sign, is_let_in) in [("right", true), ("wrong", false), ("none", false)] {
        let forged = json!({ "event": "track_updated", "data": news["data"], "sign": sign });
        let answer = signed.bank.control("shippo/webhooks/forge", forged).await;
        assert_eq!(answer["answer"] != 400, is_let_in, "{sign}: {answer}");
    }
    signed.close().await;
}

// ── a parcel abroad ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Two lamps to Berlin, and how they are sent.
fn box_of_lamps() -> Value {
    json!({
        "parcel": { "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 },
        "service": { "provider": "shippo", "carrier": "ups", "token": "ups_saver", "name": "UPS Worldwide Saver" },
    })
}

/// What customs are told of them.
fn papers() -> Value {
    let value = json!({ "amount": "25.00", "currency": "USD" });
    let lamps = json!({ "description": "Brass lamp", "quantity": 2, "grams": 850, "value": value, "origin": "TR",
        "hs_code": "9405.21" });
    json!({ "signer": "Sam Souk", "items": [lamps] })
}

async fn as_staff(shop: &TestShop, method: Method, path: &str, body: Option<&Value>) -> Answer {
    let request = shop.request(method, path).bearer_auth(STAFF);
    let request = body.into_iter().fold(request, |request, body| request.json(body));
    Answer::of(request).await.expect("an answer")
}

async fn comes_to(shop: &TestShop, placed: &Placed, shipment_id: &Value, status: &str) -> Value {
    let path = format!("/v1/orders/{}/shipments", placed.order_id);
    let mut found = Value::Null;
    eventually(&format!("{shipment_id} becomes {status}"), async || {
        let all = shop.see(&path).await.ok();
        let mut all = all["shipments"].as_array().expect("a list").iter();
        found = all.find(|shipment| shipment["shipment_id"] == *shipment_id).expect("it is listed").clone();
        found["status"] == status
    })
    .await;
    found
}

/// The carrier's own answer about something, by its id.
async fn at_carrier(bank: &Bank, path: &str) -> Value {
    let request = bank.http.get(format!("{}/shippo/{path}", bank.base));
    Answer::of(request.header("authorization", "ShippoToken shippo_test_souk")).await.expect("an answer").ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_abroad_is_declared_and_its_label_outlives_the_carriers_address() {
    let shop = TestShop::open().await;
    let sku_id = shop.sku(5).await;
    let mut abroad = paid_basket(&[(&sku_id, 2)]);
    abroad["shipping_address"] = json!({ "name": "Ada Berg", "line1": "Unter den Linden 1", "city": "Berlin",
        "postal_code": "10117", "country": "DE" });
    let placed = shop.place(abroad).await;
    shop.bank.approve(&placed).await;
    shop.becomes(&placed, "confirmed", "paid").await;
    let shipments = format!("/v1/admin/orders/{}/shipments", placed.order_id);

    // without papers nobody carries it, and staff are told why
    let bare = shop.order_staff(&shipments, box_of_lamps()).await.ok()["shipment_id"].clone();
    let failed = comes_to(&shop, &placed, &bare, "label_failed").await;
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("customs declaration")), "{failed}");
    let label = format!("{shipments}/{}/label", bare.as_str().expect("an id"));
    as_staff(&shop, Method::GET, &label, None).await.is_problem(404, "not_found");
    let void = format!("{shipments}/{}/void", bare.as_str().expect("an id"));
    as_staff(&shop, Method::POST, &void, None).await.ok();
    comes_to(&shop, &placed, &bare, "voided").await;

    let mut packing = box_of_lamps();
    packing["customs"] = papers();
    let shipment_id = shop.order_staff(&shipments, packing).await.ok()["shipment_id"].clone();
    let labelled = comes_to(&shop, &placed, &shipment_id, "labelled").await;
    let id = shipment_id.as_str().expect("an id");
    let sold = shop.bank.read(&format!("shippo/transactions?metadata={id}")).await["transactions"].clone();
    assert_eq!((sold.as_array().map(Vec::len), &sold[0]["carrier"]), (Some(1), &json!("ups")), "{sold}");
    assert_eq!(labelled["tracking_number"], sold[0]["tracking_number"]);

    let at = at_carrier(&shop.bank, &format!("shipments/{}", sold[0]["shipment"].as_str().expect("an id"))).await;
    assert_eq!((&at["address_to"]["country"], &at["parcels"][0]["weight"]), (&json!("DE"), &json!("900")));
    let declared = &at["customs_declaration"];
    let expected = json!({ "certify": true, "certify_signer": "Sam Souk", "contents_type": "MERCHANDISE",
        "non_delivery_option": "RETURN", "eel_pfc": "NOEEI_30_37_a" });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&declared[field], value, "{field} of {declared}");
    }
    assert_eq!(declared["items"].as_array().map(Vec::len), Some(1), "{declared}");
    let item =
        at_carrier(&shop.bank, &format!("customs/items/{}", declared["items"][0].as_str().expect("an id"))).await;
    let expected = json!({ "description": "Brass lamp", "quantity": 2, "net_weight": "850", "mass_unit": "g",
        "value_amount": "25.00", "value_currency": "USD", "origin_country": "TR", "tariff_number": "9405.21" });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&item[field], value, "{field} of {item}");
    }

    let label = format!("{shipments}/{id}/label");
    eventually("the label can be printed", async || as_staff(&shop, Method::GET, &label, None).await.status == 200)
        .await;
    let printed = as_staff(&shop, Method::GET, &label, None).await;
    let carriers = shop.bank.http.get(sold[0]["label_url"].as_str().expect("an address"));
    let carriers = Answer::of(carriers.try_clone().expect("no body")).await.map(|answer| (answer, carriers));
    let (original, again) = carriers.expect("an answer");
    assert_eq!((printed.header("content-type"), &printed.text), ("application/pdf", &original.text));
    assert!(
        printed.text.starts_with("%PDF-") && printed.text.contains(sold[0]["tracking_number"].as_str().expect("one"))
    );
    assert_eq!((printed.header("cache-control"), printed.header("x-content-type-options")), ("no-store", "nosniff"));
    shop.get(&label).await.is_problem(401, "unauthorised");

    // a day later the carrier shows it to nobody
    shop.bank.control("clock", json!({ "advance_ms": 25 * 3_600 * 1_000 })).await;
    assert_eq!(Answer::of(again).await.expect("an answer").status, 403);
    let kept = as_staff(&shop, Method::GET, &label, None).await;
    assert_eq!((kept.status, kept.text), (200, printed.text));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn papers_that_no_form_can_hold_are_refused() {
    let shop = TestShop::open().await;
    let placed = shop.sold(&shop.sku(2).await).await;
    let path = format!("/v1/admin/orders/{}/shipments", placed.order_id);
    type Spoil = fn(&mut Value);
    let cases: [(&str, Spoil); 7] = [
        ("nothing in it", |papers| papers["items"] = json!([])),
        ("no quantity", |papers| papers["items"][0]["quantity"] = json!(0)),
        ("no weight", |papers| papers["items"][0]["grams"] = json!(0)),
        ("less than nothing", |papers| papers["items"][0]["value"]["amount"] = json!("-1.00")),
        ("another decimal", |papers| papers["items"][0]["value"]["amount"] = json!("1.001")),
        ("a long signer", |papers| papers["signer"] = json!("x".repeat(101))),
        ("a country's name", |papers| papers["items"][0]["origin"] = json!("Turkey")),
    ];
    for (what, spoil) in cases {
        let mut packing = box_of_lamps();
        packing["customs"] = papers();
        spoil(&mut packing["customs"]);
        let answer = shop.order_staff(&path, packing).await;
        assert_eq!((answer.status, answer.code()), (422, "invalid"), "{what}: {}", answer.text);
    }
    assert_eq!(shop.count("select count(*) from shipment").await, 0);
    shop.close().await;
}

// ── the carrier's port ───────────────────────────────────────────────────────────────────────────────────────────────────

fn address() -> Address {
    serde_json::from_value(basket(&[])["shipping_address"].clone()).expect("an address")
}

fn wish(shipment_id: ShipmentId) -> BuyLabel {
    let service = Service {
        provider: "shippo".to_owned(),
        carrier: "usps".to_owned(),
        token: "usps_priority".to_owned(),
        name: "USPS Priority Mail".to_owned(),
    };
    BuyLabel {
        shipment_id,
        service,
        from: Address { postal_code: "94117".to_owned(), ..address() },
        to: address(),
        email: None,
        parcel: Parcel { length_mm: 250, width_mm: 200, height_mm: 100, grams: 600 },
        customs: None,
    }
}

fn carrier(shop: &TestShop) -> &dyn Carrier {
    shop.app.shop.shipping.carrier.as_deref().expect("there is one")
}

/// A shipment of now: its id is no lower than the milliseconds of its time.
async fn shipment(shop: &TestShop) -> ShipmentId {
    ShipmentId(shop.app.shop.engine.ids(1).await.expect("an id").next().expect("one"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_is_bought_found_printed_followed_and_voided() {
    let shop = TestShop::open().await;
    let carrier = carrier(&shop);
    for manner in PROFILES {
        profile(&shop.bank, manner).await;
        let shipment_id = shipment(&shop).await;
        assert_eq!(carrier.find(shipment_id).await, Ok(Vec::new()));
        let bought = carrier.buy(&wish(shipment_id)).await.expect("bought");
        assert_eq!((&bought.status, bought.carrier.as_deref()), (&LabelStatus::Bought, Some("usps")), "{manner}");
        assert_eq!(bought.cost.map(|cost| cost.to_string()).as_deref(), Some("10.87 USD"));
        let found = carrier.find(shipment_id).await.expect("found");
        assert_eq!(found.iter().map(|label| &label.label_id).collect::<Vec<_>>(), [&bought.label_id], "{manner}");
        assert_eq!((found[0].cost, &found[0].carrier), (bought.cost, &bought.carrier));

        let url = bought.file_url.expect("a file");
        let file = carrier.file(&url).await.expect("a label");
        assert!(file.content_type == "application/pdf" && file.bytes.starts_with(b"%PDF-"));

        let number = bought.tracking_number.expect("a number");
        for (status, date) in [
            ("TRANSIT", "2026-11-22T10:00:00Z"),
            ("DELIVERED", "2026-11-23T10:00:00Z"),
            ("TRANSIT", "2026-11-22T09:00:00Z"),
        ] {
            let scan = json!({ "status": status, "status_date": date });
            shop.bank.control(&format!("shippo/tracks/usps/{number}"), scan).await;
        }
        let history = carrier.track("usps", &number).await.expect("followed");
        let last = history.last().expect("something was said");
        assert_eq!(
            (last.status, last.at.to_rfc3339().as_str()),
            (TrackingStatus::Delivered, "2026-11-23T10:00:00+00:00"),
            "{manner}"
        );
        assert!(history.is_sorted_by_key(|said| said.at), "{history:?}");

        assert_eq!(carrier.void(&bought.label_id).await, Ok(Void::Rejected), "{manner}: it was used");

        let unused = carrier.buy(&wish(shipment(&shop).await)).await.expect("bought").label_id;
        assert_eq!(carrier.void(&unused).await, Ok(Void::Pending), "{manner}");
        assert_eq!(carrier.void(&unused).await, Ok(Void::Pending), "asked for once");
        assert_eq!(carrier.look(&unused).await.expect("there").status, LabelStatus::Voiding);
    }
    assert_eq!(labels(&shop.bank).await["refunds_by_status"]["PENDING"], 2);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_buying_comes_to_there_is_one_label_to_be_found_or_none() {
    let shop = TestShop::with(&[("SOUK_SHIPPO__TIMEOUT_SECONDS", "4")]).await;
    let carrier = carrier(&shop);
    for manner in PROFILES {
        profile(&shop.bank, manner).await;
        for (kind, bought) in [
            (json!({ "kind": "drop_before" }), 0),
            (json!({ "kind": "drop_after" }), 1),
            (json!({ "kind": "hang" }), 0),
            (json!({ "kind": "hang_after" }), 1),
            (json!({ "kind": "status", "status": 503 }), 0),
            (json!({ "kind": "status_after", "status": 500 }), 1),
            (json!({ "kind": "html" }), 0),
            (json!({ "kind": "garbage" }), 1),
        ] {
            let shipment_id = shipment(&shop).await;
            let mut rule = kind.clone();
            rule["on"] = json!("buy");
            fault(&shop.bank, rule).await;
            let error = carrier.buy(&wish(shipment_id)).await.expect_err("no answer");
            assert!(matches!(error, ProviderError::Unknown { .. }), "{kind}: {error}");
            forgive(&shop.bank).await;
            let mut found = Vec::new();
            eventually("the label is found where there is one", async || {
                found = carrier.find(shipment_id).await.expect("an answer");
                found.len() == bought
            })
            .await;
            let books = labels(&shop.bank).await;
            let counted = books["labels"][shipment_id.to_string()]["bought"].as_u64().unwrap_or_default();
            assert_eq!(counted, bought as u64, "{manner} {kind}");
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_is_refused_or_queued_is_told_as_such() {
    let shop = TestShop::open().await;
    let carrier = carrier(&shop);
    for manner in PROFILES {
        profile(&shop.bank, manner).await;
        let shipment_id = shipment(&shop).await;
        fault(&shop.bank, json!({ "on": "buy", "kind": "refused", "text": "UPS did not respond." })).await;
        let refused = carrier.buy(&wish(shipment_id)).await.expect("an answer");
        assert_eq!(refused.status, LabelStatus::Failed("carrier_timeout: UPS did not respond.".to_owned()), "{manner}");
        assert_eq!(carrier.find(shipment_id).await, Ok(Vec::new()), "a refused label is none");

        fault(&shop.bank, json!({ "on": "buy", "kind": "queued" })).await;
        let queued = carrier.buy(&wish(shipment_id)).await.expect("an answer");
        assert_eq!(queued.status, LabelStatus::Queued);
        assert!(matches!(carrier.void(&queued.label_id).await, Err(ProviderError::NotYet(_))));
        assert_eq!(carrier.find(shipment_id).await.expect("found")[0].status, LabelStatus::Queued);
        shop.bank.control(&format!("shippo/transactions/{}", queued.label_id), json!({ "status": "SUCCESS" })).await;
        let bought = carrier.look(&queued.label_id).await.expect("there");
        assert_eq!((bought.status, bought.carrier.as_deref()), (LabelStatus::Bought, Some("usps")), "{manner}");
        assert!(bought.tracking_number.is_some() && bought.file_url.is_some());

        fault(&shop.bank, json!({ "on": "buy", "kind": "status", "status": 429, "retry_after": 7 })).await;
        let waits = Some(Duration::from_secs(7));
        let error = carrier.buy(&wish(shipment_id)).await.expect_err("throttled");
        assert!(matches!(error, ProviderError::Unknown { retry_after, .. } if retry_after == waits), "{error}");
        fault(&shop.bank, json!({ "on": "buy", "kind": "invalid", "field": "rate", "message": "x" })).await;
        let error = carrier.buy(&wish(shipment_id)).await.expect_err("refused");
        assert_eq!(error, ProviderError::Rejected("refused for rate (HTTP 400)".to_owned()));
    }
    assert!(matches!(carrier.look("0123456789abcdef0123456789abcdef").await, Err(ProviderError::Dead(_))));
    shop.close().await;
}
