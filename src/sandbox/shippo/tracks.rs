//! Where parcels are. Real ones move when a test moves them; carrier `shippo` has six that never do.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    books::{Books, Change, Scan, Track},
    call::Fields,
    errors::Refusal,
    office::{self, Desk, Office},
    profile::{Profile, Shape},
};
use crate::sandbox::clock;

/// Every status with its substatuses, and whether these ask somebody to do something.
const STATUSES: [(&str, &[(&str, bool)]); 6] = [
    ("UNKNOWN", &[("other", false)]),
    ("PRE_TRANSIT", &[("information_received", false)]),
    (
        "TRANSIT",
        &[
            ("address_issue", true),
            ("contact_carrier", true),
            ("delayed", false),
            ("delivery_attempted", true),
            ("delivery_rescheduled", false),
            ("delivery_scheduled", false),
            ("location_inaccessible", true),
            ("notice_left", true),
            ("out_for_delivery", false),
            ("package_accepted", false),
            ("package_arrived", false),
            ("package_damaged", true),
            ("package_departed", false),
            ("package_forwarded", false),
            ("package_held", true),
            ("package_processed", false),
            ("package_processing", false),
            ("pickup_available", true),
            ("reschedule_delivery", true),
        ],
    ),
    ("DELIVERED", &[("delivered", false)]),
    ("RETURNED", &[("return_to_sender", false), ("package_unclaimed", true)]),
    ("FAILURE", &[("package_undeliverable", true), ("package_disposed", false), ("package_lost", true)]),
];

/// `POST /tracks`: from now on somebody is told, once more for each time of asking.
pub(super) async fn register(State(desk): State<Desk>, fields: Fields) -> Result<Response, Refusal> {
    fields.require(&["carrier", "tracking_number"])?;
    let carrier = fields.text("carrier").unwrap_or_default();
    let number = fields.text("tracking_number").unwrap_or_default();
    let metadata = fields.metadata()?;
    let register = |books: &Books, _| {
        let known = books.track(&carrier, &number).map(|track| (**track).clone());
        let mut track = match known {
            Some(track) => track,
            None => begun(&carrier, &number)?,
        };
        track.registrations += 1;
        if !metadata.is_empty() {
            track.metadata = metadata;
        }
        let mut change = Change::default();
        if carrier == "shippo" {
            // a test number is told of at once: it will never move
            desk.announce(books, &mut change, "track_updated", view(&track), 1);
        }
        let answer = view(&track);
        change.tracks.push(Arc::new(track));
        Ok((answer, change))
    };
    let answer = desk.transact(register).await?;
    Ok(desk.answer(StatusCode::OK, Shape::Track, answer))
}

/// `GET /tracks/{carrier}/{number}`: also of a parcel that nobody has asked about yet.
pub(super) async fn show(
    State(desk): State<Desk>,
    Path((carrier, number)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let known = desk.inspect(|books| books.track(&carrier, &number).cloned()).await?;
    let track = match known {
        Some(track) => track,
        None => Arc::new(begun(&carrier, &number)?),
    };
    Ok(desk.answer(StatusCode::OK, Shape::Track, view(&track)))
}

/// A parcel without scans, or one of the six.
fn begun(carrier: &str, number: &str) -> Result<Track, Refusal> {
    let mut track = Track::begun(carrier, number);
    if carrier != "shippo" {
        return Ok(track);
    }
    let status = number.strip_prefix("SHIPPO_").filter(|status| STATUSES.iter().any(|(known, _)| known == status));
    let status = status.ok_or_else(|| Refusal::choice("tracking_number", number))?;
    let way: &[&str] = match status {
        "UNKNOWN" => &["UNKNOWN"],
        "PRE_TRANSIT" => &["PRE_TRANSIT"],
        "TRANSIT" => &["PRE_TRANSIT", "TRANSIT"],
        other => &["PRE_TRANSIT", "TRANSIT", other],
    };
    // one scan a day, the last when Shippo's documents show it
    let last = DateTime::from_timestamp_millis(1_532_976_582_586).expect("a moment of 2018");
    for (at, status) in way.iter().enumerate() {
        let age = i64::try_from(way.len() - 1 - at).expect("three at most");
        let date = last - TimeDelta::days(age);
        let details = format!("The test parcel is in status {status}.");
        let id = format!("{:032x}", crc32fast::hash(format!("{number}/{status}").as_bytes()));
        track.scans.push(Scan { id, created: date, status: (*status).to_owned(), substatus: None, details, date });
    }
    Ok(track)
}

/// What a test says of a parcel.
pub(super) struct News {
    pub(super) status: String,
    pub(super) substatus: Option<String>,
    pub(super) date: Option<DateTime<Utc>>,
    pub(super) details: Option<String>,
}

/// A carrier has scanned a parcel. An older date is a scan that was told late.
pub(super) fn scanned(
    office: &Office,
    books: &Books,
    (carrier, number): (&str, &str),
    news: News,
    now: DateTime<Utc>,
) -> Result<(Value, Change), Refusal> {
    check_words(office, &news)?;
    let known = books.track(carrier, number).map(|track| (**track).clone());
    let mut track = known.unwrap_or_else(|| Track { registrations: 1, ..Track::begun(carrier, number) });
    let details = news.details.unwrap_or_else(|| format!("The parcel is in status {}.", news.status));
    let scan = Scan {
        id: office::id(),
        created: now,
        status: news.status,
        substatus: news.substatus,
        details,
        date: news.date.unwrap_or(now),
    };
    track.scans.push(scan.clone());
    let mut change = Change::default();
    let mut told = view(&track);
    told["tracking_status"] = scan_view(&scan); // what was scanned, also when it is not the newest
    office.announce(books, &mut change, "track_updated", told, track.registrations);
    let answer = view(&track);
    change.tracks.push(Arc::new(track));
    Ok((answer, change))
}

/// Shippo has a list of words, and does not always keep to it.
fn check_words(office: &Office, news: &News) -> Result<(), Refusal> {
    if office.knobs().profile == Profile::Observed {
        return Ok(());
    }
    let known = STATUSES.iter().find(|(status, _)| *status == news.status);
    let (_, substatuses) = known.ok_or_else(|| Refusal::choice("status", &news.status))?;
    match &news.substatus {
        Some(substatus) if !substatuses.iter().any(|(known, _)| known == substatus) => {
            Err(Refusal::choice("substatus", substatus))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn view(track: &Track) -> Value {
    let mut history: Vec<&Scan> = track.scans.iter().collect();
    history.sort_by_key(|scan| scan.date);
    let mut view = json!({
        "carrier": track.carrier,
        "tracking_number": track.number,
        "metadata": track.metadata,
        "messages": [],
        "tracking_history": history.into_iter().map(scan_view).collect::<Vec<_>>(),
        "test": true,
    });
    if let Some(newest) = track.newest() {
        view["tracking_status"] = scan_view(newest);
    }
    if let Some(transaction) = &track.transaction {
        view["transaction"] = json!(transaction);
    }
    view
}

fn scan_view(scan: &Scan) -> Value {
    let mut view = json!({
        "object_id": scan.id,
        "object_created": clock::stamp_ms(scan.created),
        "object_updated": clock::stamp_ms(scan.created),
        "status": scan.status,
        "status_details": scan.details,
        "status_date": clock::stamp_ms(scan.date),
        "location": {"city": "San Francisco", "state": "CA", "zip": "94103", "country": "US"},
    });
    if let Some(code) = &scan.substatus {
        let needs_action =
            STATUSES.iter().flat_map(|(_, codes)| *codes).any(|(known, action)| known == code && *action);
        let text = code.replace('_', " ");
        view["substatus"] = json!({"code": code, "text": text, "action_required": needs_action});
    }
    view
}
