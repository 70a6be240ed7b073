//! What a tracking webhook does, row by row of the design's table, over HTTP against the sandbox; each story ends with a clean
//! audit. The same rows against every order of a carrier's words: `shipments`, `domain/shipment.rs`.
//!
//! | row of the table | where it is proved |
//! |---|---|
//! | no event id exists | [`the_same_news_again`] |
//! | DELIVERED before TRANSIT, or a late TRANSIT | [`delivered_before_transit_and_a_late_transit`] |
//! | tracking before the label's reply is saved | [`news_before_the_labels_reply`] |
//! | tracking on a voided label | [`news_of_a_voided_label`] |
//! | RETURNED after DELIVERED | [`returned_after_delivered`] |
//! | label purchase timed out | [`news_before_the_labels_reply`]; each failure of the call: `steps` |
//! | label purchase answers 201 with status ERROR | [`a_label_that_the_carrier_does_not_sell`] |
//! | somebody else's post | `shipping`: a webhook without the token is not Shippo's |

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    paypal_table::end,
    support::{
        passes,
        shop::{Answer, Placed, STAFF, TestShop, fresh},
    },
};

const NOON: &str = "2026-11-22T12:00:00Z";
const EVENING: &str = "2026-11-22T18:00:00Z";

/// A shop, and a parcel of an order that is paid.
struct Parcel {
    shop: TestShop,
    sku_id: String,
    placed: Placed,
    shipment_id: String,
}

impl Parcel {
    /// Packed: its label is being bought.
    async fn packed(settings: &[(&str, &str)], buying: Option<Value>) -> Self {
        let shop = TestShop::with(settings).await;
        let url = format!("{}/v1/webhooks/shippo?token=souk", shop.base);
        shop.bank.control("shippo/settings", json!({ "webhook_url": url })).await;
        let sku_id = shop.sku(5).await;
        let placed = shop.sold(&sku_id).await;
        if let Some(mut fault) = buying {
            fault["on"] = json!("buy");
            shop.bank.control("shippo/faults", fault).await;
        }
        let service =
            json!({ "provider": "shippo", "carrier": "usps", "token": "usps_priority", "name": "USPS Priority Mail" });
        let size = json!({ "length_mm": 300, "width_mm": 200, "height_mm": 100, "grams": 900 });
        let path = format!("/v1/admin/orders/{}/shipments", placed.order_id);
        shop.order_staff(&path, json!({ "parcel": size, "service": service })).await.ok();
        let mut parcel = Self { shop, sku_id, placed, shipment_id: String::new() };
        parcel.shipment_id = text(&parcel.view().await, "shipment_id");
        parcel
    }

    async fn labelled() -> Self {
        let parcel = Self::packed(&[], None).await;
        parcel.becomes("labelled").await;
        parcel
    }

    async fn view(&self) -> Value {
        let path = format!("/v1/orders/{}/shipments", self.placed.order_id);
        self.shop.see(&path).await.ok()["shipments"][0].clone()
    }

    async fn becomes(&self, status: &str) {
        passes(&self.shop, 2, async || self.view().await["status"] == status, status).await;
    }

    /// Staff ask something of it.
    async fn order(&self, verb: &str) {
        let path = format!("/v1/admin/orders/{}/shipments/{}/{verb}", self.placed.order_id, self.shipment_id);
        let request = self.shop.request(Method::POST, &path).bearer_auth(STAFF);
        Answer::of(request.header("Idempotency-Key", fresh("parcel"))).await.expect("an answer").ok();
    }

    /// The carrier scans it somewhere, and whoever wants to know is told.
    async fn scan(&self, number: &str, status: &str, at: &str) {
        let news = json!({ "status": status, "status_date": at });
        self.shop.bank.control(&format!("shippo/tracks/usps/{number}"), news).await;
    }

    /// Everything that the carrier has told has arrived, and is dealt with.
    async fn all_heard(&self) {
        assert_eq!(self.shop.bank.control("shippo/webhooks/settle", json!({})).await["settled"], true);
        let open = "select count(*) from inbox where processed_at is null";
        passes(&self.shop, 2, async || self.shop.count(open).await == 0, "all news are dealt with").await;
    }

    async fn end(self) {
        end(self.shop).await;
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_news_again() {
    let parcel = Parcel::labelled().await;
    let number = text(&parcel.view().await, "tracking_number");
    parcel.scan(&number, "TRANSIT", NOON).await;
    parcel.becomes("in_transit").await;
    parcel.all_heard().await;
    let told = parcel.shop.timeline(&parcel.placed).await;
    let (facts, stored) =
        ("select count(*) from tracking_fact", "select count(*) from inbox where provider = 'shippo'");
    let before = (parcel.shop.count(facts).await, parcel.shop.count(stored).await);
    for _ in 0..3 {
        parcel.scan(&number, "TRANSIT", NOON).await;
    }
    parcel.all_heard().await;
    assert_eq!((parcel.shop.count(facts).await, parcel.shop.count(stored).await), before);
    assert_eq!(parcel.shop.timeline(&parcel.placed).await, told);
    assert_eq!(parcel.shop.stock(&parcel.sku_id).await, (4, 0), "it left once");
    parcel.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_before_transit_and_a_late_transit() {
    let parcel = Parcel::labelled().await;
    let number = text(&parcel.view().await, "tracking_number");
    parcel.shop.bank.control("shippo/webhooks/hold", json!({})).await;
    parcel.scan(&number, "TRANSIT", NOON).await;
    parcel.scan(&number, "DELIVERED", EVENING).await;
    parcel.shop.bank.control("shippo/webhooks/release", json!({ "order": "reversed" })).await;
    parcel.becomes("delivered").await;
    parcel.all_heard().await;
    parcel.scan(&number, "TRANSIT", "2026-11-22T15:00:00Z").await;
    parcel.all_heard().await;
    assert_eq!(parcel.view().await["status"], "delivered");
    assert_eq!(parcel.shop.status(&parcel.placed).await.0, "completed");
    assert_eq!(parcel.shop.stock(&parcel.sku_id).await, (4, 0));
    parcel.end().await;
}

/// The label is bought, the answer never comes, and the carrier moves the parcel meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_before_the_labels_reply() {
    let settings = [("SOUK_SHIPPO__TIMEOUT_SECONDS", "2")];
    let parcel = Parcel::packed(&settings, Some(json!({ "kind": "hang_after" }))).await;
    let about = format!("shippo/transactions?metadata={}", parcel.shipment_id);
    let mut number = String::new();
    let bought = async || {
        let label = parcel.shop.bank.read(&about).await["transactions"][0].clone();
        number = label["tracking_number"].as_str().unwrap_or_default().to_owned();
        !number.is_empty()
    };
    passes(&parcel.shop, 0, bought, "the label is bought").await;
    parcel.scan(&number, "TRANSIT", NOON).await;
    parcel.becomes("in_transit").await;
    parcel.all_heard().await;
    let labels = parcel.shop.bank.read(&about).await["transactions"].as_array().map(Vec::len);
    assert_eq!(labels, Some(1), "it was bought once");
    assert_eq!(parcel.view().await["tracking_number"], number);
    assert_eq!(parcel.shop.stock(&parcel.sku_id).await, (4, 0));
    parcel.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_a_voided_label() {
    let parcel = Parcel::labelled().await;
    let number = text(&parcel.view().await, "tracking_number");
    parcel.order("void").await;
    let voided = async || {
        let books = parcel.shop.bank.read("shippo/books").await;
        for refund in books["refunds"].as_array().expect("a list").iter().filter(|row| row["status"] == "PENDING") {
            let path = format!("shippo/refunds/{}", text(refund, "object_id"));
            parcel.shop.bank.control(&path, json!({ "status": "SUCCESS" })).await;
        }
        parcel.view().await["status"] == "voided"
    };
    passes(&parcel.shop, 60, voided, "the label is given back").await;
    parcel.scan(&number, "TRANSIT", NOON).await;
    parcel.all_heard().await;
    assert_eq!(parcel.view().await["status"], "voided");
    let timeline = parcel.shop.timeline(&parcel.placed).await;
    assert_eq!(timeline.iter().filter(|kind| *kind == "needs_review").count(), 1, "{timeline:?}");
    assert!(parcel.shop.get("/metrics").await.text.contains(r#"souk_alerts_total{kind="needs_review"}"#));
    assert_eq!(parcel.shop.stock(&parcel.sku_id).await, (5, 1), "nothing of it is known to have left");
    parcel.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn returned_after_delivered() {
    let parcel = Parcel::labelled().await;
    let number = text(&parcel.view().await, "tracking_number");
    parcel.scan(&number, "DELIVERED", NOON).await;
    parcel.becomes("delivered").await;
    parcel.scan(&number, "RETURNED", EVENING).await;
    let path = format!("/v1/orders/{}/returns", parcel.placed.order_id);
    let opened = async || parcel.shop.see(&path).await.ok()["returns"].as_array().map(Vec::len) == Some(1);
    passes(&parcel.shop, 2, opened, "a return is opened").await;
    parcel.all_heard().await;
    assert_eq!(parcel.shop.stock(&parcel.sku_id).await, (4, 0), "nothing is restocked before somebody has looked");
    parcel.end().await;
}

/// The carrier's own words are told to staff, who try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_the_carrier_does_not_sell() {
    let refused = json!({ "kind": "refused", "text": "The address is a swamp." });
    let parcel = Parcel::packed(&[], Some(refused)).await;
    parcel.becomes("label_failed").await;
    assert!(parcel.view().await.to_string().contains("The address is a swamp."));
    parcel.order("label").await;
    parcel.becomes("labelled").await;
    parcel.end().await;
}
