//! Labels: bought by a rate or at once, and never the same one twice: Shippo knows no idempotency key, so each call that
//! succeeds is another label.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    OWNER,
    books::{Books, Change, Message, Rate, Track, Transaction, TransactionStatus},
    call::{Fields, Page},
    errors::Refusal,
    faults::Verdict,
    labels,
    office::{self, Desk, Office},
    profile::Shape,
    shipments::{self, rate_view},
    tariff::Service,
};
use crate::sandbox::clock;

/// How long the link to a label's file works.
const LABEL_LIFE: TimeDelta = TimeDelta::days(1);
const FILE_TYPES: [&str; 10] =
    ["PNG", "PNG_2.3x7.5", "PDF", "PDF_2.3x7.5", "PDF_4x6", "PDF_4x8", "PDF_A4", "PDF_A5", "PDF_A6", "ZPLII"];

/// `POST /transactions`
pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(verdict): Extension<Verdict>,
    fields: Fields,
) -> Result<Response, Refusal> {
    let instalabel = fields.get("shipment").is_some();
    let queued = fields.flag("async").unwrap_or(!instalabel);
    let file_type = fields.choice("label_file_type", &FILE_TYPES)?.unwrap_or_else(|| "PDF".to_owned());
    let metadata = fields.metadata()?;
    let buy = |books: &Books, now| {
        let mut change = Change::default();
        let rate = if instalabel { chosen(books, &mut change, &fields, now)? } else { offered(books, &fields, now)? };
        let mut transaction = Transaction {
            id: office::id(),
            created: now,
            updated: now,
            status: TransactionStatus::Queued,
            queued: Some(desk.queue(now)),
            rate: rate.id.clone(),
            shipment: rate.shipment.clone(),
            instalabel,
            metadata,
            label_file_type: file_type,
            carrier: rate.service().carrier.to_owned(),
            tracking_number: String::new(),
            messages: Vec::new(),
            label_expires: None,
        };
        match verdict {
            Verdict::Refused { code, text } => transaction.fail(rate.service().provider, code, text, now),
            Verdict::Queued => transaction.queued = Some(super::books::Queued::Stuck),
            Verdict::Fair if queued => {}
            Verdict::Fair => transaction.succeed(books, &mut change, now),
        }
        let answer = view(&desk.house.base, &desk.settings.key, books, &transaction, Some(&rate));
        desk.announce(books, &mut change, "transaction_created", told(answer.clone()), 1);
        change.transactions.push(Arc::new(transaction));
        Ok((answer, change))
    };
    let answer = desk.transact(buy).await?;
    Ok(desk.answer(StatusCode::CREATED, Shape::Transaction, answer))
}

/// The rate that was offered and is bought now.
fn offered(books: &Books, fields: &Fields, now: DateTime<Utc>) -> Result<Arc<Rate>, Refusal> {
    let id = fields.text("rate").ok_or_else(|| Refusal::missing("rate"))?;
    let rate = books.rates.get(&id).ok_or_else(|| Refusal::dangling("rate", "Rate"))?;
    if rate.has_expired(now) {
        return Err(Refusal::field(
            "rate",
            "Rates expire after 7 days. Please create a new Shipment to get new rates.",
        ));
    }
    Ok(Arc::clone(rate))
}

/// The rate of an instalabel: the shipment stands in the request, and the service is named.
fn chosen(books: &Books, change: &mut Change, fields: &Fields, now: DateTime<Utc>) -> Result<Arc<Rate>, Refusal> {
    fields.require(&["carrier_account", "servicelevel_token"])?;
    let token = fields.text("servicelevel_token").unwrap_or_default();
    let service = Service::find(&token).ok_or_else(|| Refusal::choice("servicelevel_token", &token))?;
    if fields.text("carrier_account").as_deref() != Some(service.carrier_account) {
        return Err(Refusal::dangling("carrier_account", "CarrierAccount"));
    }
    let inline = fields.get("shipment").and_then(Value::as_object);
    let inline = inline.ok_or_else(|| Refusal::field("shipment", "Invalid data. Expected a dictionary."))?;
    let shipment = shipments::draft(books, change, &Fields::of(inline), now);
    let shipment = shipment.map_err(|refusal| refusal.within("shipment"))?;
    if service.goes_abroad() != shipment.crosses_a_border() {
        return Err(Refusal::field("servicelevel_token", "This service does not go there."));
    }
    if shipment.crosses_a_border() && shipment.customs.is_none() {
        let sentence = "A customs declaration is required for international shipments.";
        return Err(Refusal::field("customs_declaration", sentence).within("shipment"));
    }
    let rate = Arc::new(shipments::instant_rate(&shipment, service, now));
    change.shipments.push(Arc::new(shipment));
    change.rates.push(Arc::clone(&rate));
    Ok(rate)
}

impl Transaction {
    /// There is a label, and the parcel is followed from now on.
    fn succeed(&mut self, books: &Books, change: &mut Change, now: DateTime<Utc>) {
        self.status = TransactionStatus::Success;
        self.queued = None;
        self.updated = now;
        self.messages.clear();
        self.label_expires = Some(now + LABEL_LIFE);
        if self.tracking_number.is_empty() {
            self.tracking_number = tracking_number(&self.carrier, &self.id);
            let mut track = match books.track(&self.carrier, &self.tracking_number) {
                Some(track) => (**track).clone(),
                None => Track::begun(&self.carrier, &self.tracking_number),
            };
            track.transaction = Some(self.id.clone());
            track.metadata.clone_from(&self.metadata);
            track.registrations += 1;
            change.tracks.push(Arc::new(track));
        }
    }

    fn fail(&mut self, source: &str, code: String, text: String, now: DateTime<Utc>) {
        self.status = TransactionStatus::Error;
        self.queued = None;
        self.updated = now;
        self.messages = vec![Message { source: source.to_owned(), code, text }];
    }
}

/// In the carrier's style, and never the same for two labels.
fn tracking_number(carrier: &str, id: &str) -> String {
    let digits: String = id.bytes().take(18).map(|digit| char::from(b'0' + digit % 10)).collect();
    let tail = crc32fast::hash(id.as_bytes()) % 1000;
    match carrier {
        "ups" => format!("1Z{}", id[..16].to_uppercase()),
        "fedex" => format!("7{}{tail:03}", &digits[..8]),
        _ => format!("92{}{tail:03}", &digits[..17]),
    }
}

/// The carrier has answered at last.
pub(super) fn bought(
    office: &Office,
    books: &Books,
    change: &mut Change,
    transaction: &Transaction,
    now: DateTime<Utc>,
) {
    let mut transaction = transaction.clone();
    transaction.succeed(books, change, now);
    updated(office, books, change, transaction);
}

/// Puts it in the change, and tells of it.
pub(super) fn updated(office: &Office, books: &Books, change: &mut Change, transaction: Transaction) {
    let answer = view(&office.house.base, &office.settings.key, books, &transaction, None);
    office.announce(books, change, "transaction_updated", told(answer), 1);
    change.transactions.push(Arc::new(transaction));
}

/// What a test has ruled about a transaction.
pub(super) struct Ruling {
    pub(super) status: TransactionStatus,
    pub(super) code: Option<String>,
    pub(super) text: Option<String>,
}

/// A test's word on what becomes of it.
pub(super) fn rule(
    office: &Office,
    books: &Books,
    id: &str,
    ruling: Ruling,
    now: DateTime<Utc>,
) -> Result<(Transaction, Change), Refusal> {
    let mut transaction = (**books.transactions.get(id).ok_or_else(Refusal::not_found)?).clone();
    let mut change = Change::default();
    let Ruling { status, code, text } = ruling;
    match status {
        TransactionStatus::Success => transaction.succeed(books, &mut change, now),
        TransactionStatus::Error => {
            let code = code.unwrap_or_else(|| "carrier_timeout".to_owned());
            let text = text.unwrap_or_else(|| "The carrier did not answer in time.".to_owned());
            transaction.fail(&transaction.carrier.to_uppercase(), code, text, now);
        }
        TransactionStatus::Queued => {
            transaction.status = status;
            transaction.queued = Some(super::books::Queued::Stuck);
        }
        TransactionStatus::Waiting
        | TransactionStatus::Refunded
        | TransactionStatus::RefundPending
        | TransactionStatus::RefundRejected => {
            transaction.status = status;
            transaction.queued = None;
        }
    }
    transaction.updated = now;
    updated(office, books, &mut change, transaction.clone());
    Ok((transaction, change))
}

/// `GET /transactions/{id}`
pub(super) async fn show(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let read = |books: &Books| {
        let transaction = books.transactions.get(&id)?;
        Some(view(&desk.house.base, &desk.settings.key, books, transaction, None))
    };
    let answer = desk.inspect(read).await?.ok_or_else(Refusal::not_found)?;
    Ok(desk.answer(StatusCode::OK, Shape::Transaction, answer))
}

#[derive(Deserialize)]
pub(super) struct Filter {
    rate: Option<String>,
    object_status: Option<String>,
    tracking_status: Option<String>,
    page: Option<usize>,
    results: Option<usize>,
}

/// `GET /transactions?rate=…&object_status=…&tracking_status=…&page=…&results=…`: newest first.
pub(super) async fn list(State(desk): State<Desk>, Query(filter): Query<Filter>) -> Result<Response, Refusal> {
    let wants = |wanted: &Option<String>, is: &Value| wanted.as_ref().is_none_or(|wanted| *is == json!(wanted));
    let fits = |view: &Value| {
        wants(&filter.object_status, &view["status"]) && wants(&filter.tracking_status, &view["tracking_status"])
    };
    let read = |books: &Books| {
        let rows = books.transactions.rows().iter().rev();
        let of_rate = rows.filter(|row| filter.rate.as_ref().is_none_or(|rate| *rate == row.rate));
        let views = of_rate.map(|row| view(&desk.house.base, &desk.settings.key, books, row, None));
        views.filter(fits).collect::<Vec<_>>()
    };
    let rows = desk.inspect(read).await?;
    let page = Page { page: filter.page, results: filter.results };
    Ok(desk.answer_list(Shape::Transaction, page.of(&desk.house.base, "/transactions", &rows)))
}

/// A transaction as it is answered. Its rate is given by who has just made it.
pub(super) fn view(base: &str, key: &str, books: &Books, transaction: &Transaction, rate: Option<&Rate>) -> Value {
    let rate = rate.or_else(|| books.rates.get(&transaction.rate).map(|rate| &**rate));
    let rate = match rate {
        Some(rate) if transaction.instalabel => instant_view(rate),
        Some(_) | None => json!(transaction.rate),
    };
    let scanned = books.track(&transaction.carrier, &transaction.tracking_number);
    let tracking_status = scanned.and_then(|track| track.newest()).map_or("UNKNOWN", |scan| &scan.status);
    let number = &transaction.tracking_number;
    let tracking_url = if number.is_empty() { String::new() } else { format!("{base}/shippo/follow/{number}") };
    json!({
        "object_id": transaction.id,
        "object_owner": OWNER,
        "object_created": clock::stamp_ms(transaction.created),
        "object_updated": clock::stamp_ms(transaction.updated),
        "object_state": "VALID",
        "status": transaction.status,
        "rate": rate,
        "metadata": transaction.metadata,
        "label_file_type": transaction.label_file_type,
        "label_url": labels::url(base, key, transaction).unwrap_or_default(),
        "tracking_number": number,
        "tracking_status": tracking_status,
        "tracking_url_provider": tracking_url,
        "messages": transaction.messages,
        // a client of Shippo's own crashes when it is left out
        "created_by": null,
        "test": true,
    })
}

/// What is left of a rate in an instalabel's answer.
fn instant_view(rate: &Rate) -> Value {
    let whole = rate_view(rate, None);
    json!({
        "object_id": whole["object_id"],
        "amount": whole["amount"],
        "currency": whole["currency"],
        "amount_local": whole["amount_local"],
        "currency_local": whole["currency_local"],
        "provider": whole["provider"],
        "carrier_account": whole["carrier_account"],
        "servicelevel_name": whole["servicelevel"]["name"],
        "servicelevel_token": whole["servicelevel"]["token"],
    })
}

/// As a webhook tells of it: there another of Shippo's own clients crashes on a null.
fn told(mut view: Value) -> Value {
    view["created_by"] = json!({"first_name": "", "last_name": "", "username": "souk"});
    view
}
