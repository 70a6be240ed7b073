//! What a message says, for tests and for people.

use mail_parser::{Address, Message, MessageParser, PartType};
use serde_json::{Value, json};

use super::relay::Letter;

/// A message that was read.
pub(super) struct Reading {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) subject: String,
    pub(super) message_id: String,
    pub(super) text: String,
    pub(super) html: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Reading {
    /// What cannot be read stays empty.
    pub(super) fn of(letter: &Letter) -> Self {
        let message = MessageParser::default().parse(&letter.raw).unwrap_or_default();
        let headers = message.headers_raw().map(|(name, value)| (name.to_owned(), unfolded(value)));
        Self {
            from: people(message.from()).join(", "),
            to: people(message.to()),
            subject: message.subject().unwrap_or_default().to_owned(),
            message_id: message.message_id().unwrap_or_default().to_owned(),
            text: part(&message, |part| if let PartType::Text(text) = part { Some(text) } else { None }),
            html: part(&message, |part| if let PartType::Html(html) = part { Some(html) } else { None }),
            headers: headers.collect(),
        }
    }
}

fn unfolded(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn part<'a>(
    message: &'a Message<'_>,
    wanted: impl Fn(&'a PartType<'a>) -> Option<&'a std::borrow::Cow<'a, str>>,
) -> String {
    message.parts.iter().find_map(|part| wanted(&part.body)).map(|text| text.to_string()).unwrap_or_default()
}

fn people(addresses: Option<&Address<'_>>) -> Vec<String> {
    let addresses = addresses.into_iter().flat_map(Address::iter);
    let text = |address: &mail_parser::Addr<'_>| {
        let mail = address.address().unwrap_or_default();
        address.name().map_or_else(|| mail.to_owned(), |name| format!("{name} <{mail}>"))
    };
    addresses.map(text).collect()
}

/// A message as tests see it.
pub(super) fn view(letter: &Letter) -> Value {
    let reading = Reading::of(letter);
    let headers = reading.headers.iter().map(|(name, value)| json!({"name": name, "value": value}));
    json!({
        "id": letter.id,
        "received": letter.received,
        "from": reading.from,
        "to": reading.to,
        "subject": reading.subject,
        "message_id": reading.message_id,
        "text": reading.text,
        "html": reading.html,
        "headers": headers.collect::<Vec<_>>(),
        "envelope": letter.envelope,
        "tls": letter.tls,
        "user": letter.user,
        "size": letter.raw.len(),
    })
}
