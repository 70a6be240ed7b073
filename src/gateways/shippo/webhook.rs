//! Is this webhook Shippo's, and which parcel does it speak of?
//!
//! Shippo signs nothing by itself. What every webhook must show is a token that stands in the address it was registered
//! under; where Shippo's staff has switched signatures on, it must also be signed, a short while ago. What its body says is
//! only a reason to ask: names are taken from it, and facts are asked for.

use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta};
use hmac::{Hmac, Mac};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use souk_actors::{clock::Clock, ports::ParcelLocator};
use subtle::ConstantTimeEq;

use super::wire::{self, ObjectId, Scan, Time, is_token};
use crate::gateways::Secret;

/// The header's name by Shippo's documentation, and by what else Shippo has published.
const SIGNATURES: [&str; 2] = ["shippo-auth-signature", "shippo-signature"];
/// How old a signature may be: a webhook that was overheard is of no use later.
const FRESH: TimeDelta = TimeDelta::minutes(5);
/// A secret is on its way out while the next one is on its way in; more signatures than that are not looked at.
const MOST_SIGNATURES: usize = 4;

/// Whose webhooks are believed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Stands in the webhook's address as `?token=…`. Empty: nobody's are believed.
    pub token: Secret,
    /// Shippo's HMAC secret. Empty: the token alone decides.
    pub secret: Secret,
}

/// Checks webhooks.
pub struct Verifier {
    token: Secret,
    secret: Secret,
    clock: Clock,
}

impl Verifier {
    pub(super) fn new(settings: Settings, clock: Clock) -> Self {
        Self { token: settings.token, secret: settings.secret, clock }
    }

    /// Whether a delivery with this token, these headers and this raw body is Shippo's.
    ///
    /// # Errors
    /// Why it is not, for the log.
    pub fn verify(&self, token: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
        let wanted = self.token.expose().as_bytes();
        let shown = token.unwrap_or_default().as_bytes();
        if wanted.is_empty() || !bool::from(shown.ct_eq(wanted)) {
            return Err("not our token");
        }
        if self.secret.expose().is_empty() { Ok(()) } else { self.verify_signature(headers, body) }
    }

    /// `t=<unix seconds>,v1=<hex>`: HMAC-SHA256 of `{t}.{body}`.
    fn verify_signature(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
        let header = SIGNATURES.into_iter().find_map(|name| headers.get(name)).ok_or("no signature")?;
        let header = header.to_str().map_err(|_| "an unreadable signature")?;
        let fields = || header.split(',').filter_map(|field| field.trim().split_once('='));
        let time =
            fields().find_map(|(name, value)| (name == "t").then_some(value)).ok_or("a signature without time")?;
        let signed_at = time.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let signed_at = signed_at.ok_or("a signature without time")?;
        if (self.clock.now() - signed_at).abs() > FRESH {
            return Err("a stale signature");
        }
        let mac = Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes())
            .expect("HMAC takes keys of any length")
            .chain_update(time)
            .chain_update(b".")
            .chain_update(body);
        let tags = fields().filter(|(name, _)| *name == "v1").take(MOST_SIGNATURES).filter_map(|(_, tag)| unhex(tag));
        let mut tags = tags.map(|tag| mac.clone().verify_slice(&tag).is_ok());
        if tags.any(|is_right| is_right) { Ok(()) } else { Err("a wrong signature") }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[derive(Deserialize, Default)]
struct Event {
    #[serde(default, deserialize_with = "wire::lenient")]
    event: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    data: Option<Data>,
}

/// The names in a track or a label. In one event `tracking_status` is a word, in another a whole scan.
#[derive(Deserialize, Default)]
struct Data {
    #[serde(default, deserialize_with = "wire::lenient")]
    object_id: Option<ObjectId>,
    #[serde(default, deserialize_with = "wire::lenient")]
    transaction: Option<ObjectId>,
    #[serde(default, deserialize_with = "wire::lenient")]
    metadata: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    carrier: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    tracking_number: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    status: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    object_updated: Option<Time>,
    #[serde(default)]
    tracking_status: Value,
}

/// Which parcel a webhook speaks of, and what makes two deliveries the same news.
pub(super) fn locate(body: &[u8]) -> ParcelLocator {
    let event: Event = serde_json::from_slice(body).unwrap_or_default();
    let event_type = event.event.filter(|word| is_token(word)).unwrap_or_else(|| "unknown".to_owned());
    let Some(data) = event.data else {
        let fingerprint = print([event_type.as_str(), &print([&*String::from_utf8_lossy(body)])]);
        return ParcelLocator { event_type, fingerprint, ..ParcelLocator::default() };
    };
    let fingerprint = data.fingerprint(&event_type);
    let is_label = event_type.starts_with("transaction_");
    let label_id = if is_label { data.object_id } else { data.transaction };
    let word = |text: Option<String>| text.filter(|text| super::is_word(text));
    ParcelLocator {
        label_id: label_id.map(|id| id.as_str().to_owned()),
        shipment_id: word(data.metadata),
        carrier: word(data.carrier),
        tracking_number: word(data.tracking_number),
        event_type,
        fingerprint,
    }
}

impl Data {
    /// Shippo's webhooks have no id: news is the same where event, object, status, substatus and the status's date are. Of a
    /// label, which has no such date, it is the time of its last change.
    fn fingerprint(&self, event_type: &str) -> String {
        let scan: Option<Scan> = serde_json::from_value(self.tracking_status.clone()).ok();
        let word = self.tracking_status.as_str();
        let (status, substatus, date) = match &scan {
            Some(scan) => {
                let code = scan.substatus.as_ref().and_then(|substatus| substatus.code.as_deref());
                (scan.status.as_deref(), code, scan.status_date)
            }
            None => (word, None, self.object_updated),
        };
        let id = |id: &Option<ObjectId>| id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let date = date.map(|Time(at)| at.timestamp_micros().to_string());
        print([
            event_type,
            &id(&self.object_id),
            &id(&self.transaction),
            self.carrier.as_deref().unwrap_or_default(),
            self.tracking_number.as_deref().unwrap_or_default(),
            self.status.as_deref().unwrap_or_default(),
            status.unwrap_or_default(),
            substatus.unwrap_or_default(),
            date.as_deref().unwrap_or_default(),
        ])
    }
}

/// SHA-256 over texts, each with its length before it, so that none runs into the next.
fn print<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"event":"track_updated","data":{}}"#;

    fn verifier(secret: &str) -> Verifier {
        Verifier::new(Settings { token: "a token of ours".into(), secret: secret.into() }, Clock::default())
    }

    fn signature(secret: &str, at: i64, body: &[u8]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
        let tag = mac.chain_update(at.to_string()).chain_update(b".").chain_update(body).finalize().into_bytes();
        format!("t={at},v1={tag:x}")
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(axum::http::HeaderName::from_static(name), value.parse().expect("a value"))])
    }

    #[test]
    fn the_token_is_always_wanted() {
        let none = HeaderMap::new();
        let verifier = verifier("");
        assert!(verifier.verify(Some("a token of ours"), &none, BODY).is_ok());
        for wrong in [None, Some(""), Some("a token of our"), Some("a token of ours "), Some("A token of ours")] {
            assert!(verifier.verify(wrong, &none, BODY).is_err(), "{wrong:?}");
        }
        let closed = Verifier::new(Settings { token: "".into(), secret: "".into() }, Clock::default());
        assert!(closed.verify(Some(""), &none, BODY).is_err(), "without a token nobody is believed");
    }

    #[test]
    fn where_there_is_a_secret_the_signature_is_wanted_too() {
        let verifier = verifier("hush");
        let now = verifier.clock.now().timestamp();
        let verify = |headers: HeaderMap, body: &[u8]| verifier.verify(Some("a token of ours"), &headers, body);
        for name in SIGNATURES {
            assert_eq!(verify(headers(name, &signature("hush", now, BODY)), BODY), Ok(()), "{name}");
        }
        let rotated = format!("{},v1={}", signature("old", now, BODY), &signature("hush", now, BODY)[15..]);
        assert!(rotated.contains(",v1=") && verify(headers(SIGNATURES[0], &rotated), BODY).is_err(), "cut short");
        let both = format!("{},{}", signature("old", now, BODY), signature("hush", now, BODY));
        assert_eq!(verify(headers(SIGNATURES[0], &both), BODY), Ok(()), "while the secret changes");

        let header = |text: &str| headers(SIGNATURES[0], text);
        for (why, headers, body) in [
            ("none", HeaderMap::new(), BODY),
            ("another secret", header(&signature("loud", now, BODY)), BODY),
            ("another body", header(&signature("hush", now, BODY)), b"{}".as_slice()),
            ("too old", header(&signature("hush", now - 301, BODY)), BODY),
            ("from the future", header(&signature("hush", now + 301, BODY)), BODY),
            ("no time", header("v1=00"), BODY),
            ("no tag", header(&format!("t={now}")), BODY),
            ("no hex", header(&format!("t={now},v1=zz")), BODY),
            ("half a byte", header(&format!("t={now},v1=0")), BODY),
            ("junk", header("äöü"), BODY),
        ] {
            assert!(verify(headers, body).is_err(), "{why}");
        }
        let good = header(&signature("hush", now, BODY));
        assert!(verifier.verify(Some("x"), &good, BODY).is_err(), "a signature is no token");
    }

    #[test]
    fn a_track_names_its_label_and_a_label_itself() {
        let track = br#"{"event":"track_updated","test":true,"carrier":"usps","data":{"carrier":"usps",
            "tracking_number":"9205590164917312751089","transaction":"7439c279ed014d9c80cea5f1a3c9d2b4",
            "metadata":"shipment_0000000000001","tracking_status":{"status":"TRANSIT",
            "substatus":{"code":"out_for_delivery"},"status_date":"2026-11-22T10:00:00Z"}}}"#;
        let located = locate(track);
        assert_eq!(located.label_id.as_deref(), Some("7439c279ed014d9c80cea5f1a3c9d2b4"));
        assert_eq!(located.shipment_id.as_deref(), Some("shipment_0000000000001"));
        assert_eq!(located.carrier.as_deref(), Some("usps"));
        assert_eq!(located.tracking_number.as_deref(), Some("9205590164917312751089"));
        assert_eq!(located.event_type, "track_updated");

        let label = br#"{"event":"transaction_updated","data":{"object_id":"abc","status":"SUCCESS","metadata":"x",
            "tracking_status":"UNKNOWN","tracking_number":"1"}}"#;
        assert_eq!(locate(label).label_id.as_deref(), Some("abc"));
        for odd in ["", "[]", "{}", r#"{"event":"batch_created","data":"abc"}"#, r#"{"event":7,"data":{}}"#] {
            let located = locate(odd.as_bytes());
            assert!(located.label_id.is_none() && !located.fingerprint.is_empty(), "{odd}");
        }
    }

    #[test]
    fn news_is_what_differs_in_status_or_date() {
        let news = |status: &str, code: &str, date: &str| {
            let body = format!(
                r#"{{"event":"track_updated","data":{{"carrier":"usps","tracking_number":"1","tracking_status":
                {{"status":"{status}","substatus":{{"code":"{code}"}},"status_date":"{date}","object_updated":null}}}}}}"#
            );
            locate(body.as_bytes()).fingerprint
        };
        let first = news("TRANSIT", "package_accepted", "2026-11-22T10:00:00Z");
        assert_eq!(first, news("TRANSIT", "package_accepted", "2026-11-22T10:00:00"), "the same time in another form");
        assert_ne!(first, news("TRANSIT", "package_accepted", "2026-11-22T10:00:01Z"));
        assert_ne!(first, news("TRANSIT", "package_departed", "2026-11-22T10:00:00Z"));
        assert_ne!(first, news("DELIVERED", "package_accepted", "2026-11-22T10:00:00Z"));
        let label = |status: &str, updated: &str| {
            let data = format!(
                r#"{{"object_id":"a","status":"{status}","object_updated":"{updated}","tracking_status":"UNKNOWN"}}"#
            );
            locate(format!(r#"{{"event":"transaction_updated","data":{data}}}"#).as_bytes()).fingerprint
        };
        let queued = label("QUEUED", "2026-11-22T10:00:00Z");
        assert_ne!(queued, label("SUCCESS", "2026-11-22T10:00:00Z"));
        assert_ne!(queued, label("QUEUED", "2026-11-22T10:00:01Z"));
        assert_ne!(locate(b"1").fingerprint, locate(b"2").fingerprint);
    }
}
