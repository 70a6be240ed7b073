//! PayPal's own list of its events: what its webhooks said, or would have said.

use serde::Deserialize;
use serde_json::value::RawValue;
use souk_actors::ports::ListedEvent;

use super::{
    events,
    wire::{self, Links, Time},
};

/// One page of `GET /v1/notifications/webhooks-events`, newest first.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default, deserialize_with = "wire::null_as_default")]
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    links: Links,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default, deserialize_with = "wire::lenient")]
    create_time: Option<Time>,
}

impl Page {
    /// The query of the page after this one, if this one is not the last.
    pub(super) fn next_query(&self) -> Option<String> {
        self.links.next_query().filter(|_| !self.events.is_empty())
    }

    /// Its events, each byte for byte. One without an id names nothing that could be stored once, and is left out.
    pub(super) fn into_events(self) -> impl Iterator<Item = (Option<Time>, ListedEvent)> {
        self.events.into_iter().filter_map(|raw| {
            let body = raw.get().as_bytes();
            let event_id = events::id(body)?;
            let head: Head = serde_json::from_slice(body).ok()?;
            Some((head.create_time, ListedEvent { event_id, body: body.to_vec() }))
        })
    }
}

/// The events of all pages, oldest first. Where PayPal gives no time the order of its list stands.
pub(super) fn oldest_first(mut listed: Vec<(Option<Time>, ListedEvent)>) -> Vec<ListedEvent> {
    listed.reverse();
    listed.sort_by_key(|(at, _)| *at);
    let mut seen = std::collections::HashSet::new();
    // a page that is asked for while new events come repeats some of the page before
    listed.into_iter().map(|(_, event)| event).filter(|event| seen.insert(event.event_id.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_kept_to_the_byte() {
        let first = r#"{"id":"WH-1","create_time":"2026-11-22T10:00:00.000Z" , "resource":{"b":1.0,"a":{}}, "x":"\/"}"#;
        let second = r#"{"create_time":"2026-11-22T03:00:01-07:00","id":"WH-2"}"#;
        let page = format!(
            r#"{{"events":[{second}, {first}, {second}, {{"event_type":"no id"}}, null],"count":5,
            "links":[{{"rel":"next","href":"https://api.paypal.com/v1/notifications/webhooks-events?page_size=5&next=2"}}]}}"#
        );
        let page: Page = serde_json::from_str(&page).expect("a page");
        assert_eq!(page.next_query().as_deref(), Some("page_size=5&next=2"));
        let listed = oldest_first(page.into_events().collect());
        let bodies: Vec<_> = listed.iter().map(|event| (event.event_id.as_str(), event.body.as_slice())).collect();
        assert_eq!(bodies, [("WH-1", first.as_bytes()), ("WH-2", second.as_bytes())]);
    }

    #[test]
    fn an_empty_page_is_the_last() {
        let body = r#"{"events":[],"links":[{"rel":"next","href":"https://x.y/z?page=2"}]}"#;
        assert_eq!(serde_json::from_str::<Page>(body).expect("a page").next_query(), None);
        assert_eq!(serde_json::from_str::<Page>("{}").expect("a page").next_query(), None);
    }
}
