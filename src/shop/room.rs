//! Tickets of waiting rooms: a number, signed, and bound to a session.
//!
//! A session is a secret that the client keeps. The ticket carries its hash, so a ticket that somebody else has seen lets
//! nobody else buy; and the room knows the hash, so a session that comes again, in however many tabs, is the same one.

use std::time::Duration;

use sha2::{Digest, Sha256};
use souk_actors::{
    RoomView, Session,
    domain::{Invalid, LineState, SaleId, Ticket, TicketFault},
};

use super::Shop;
use crate::{auth::Keys, problem::Problem};

/// What tickets are sealed for.
const PURPOSE: &str = "waiting room ticket";
/// A session's length, as clients may choose it: nobody guesses 22 characters.
const SESSION: std::ops::RangeInclusive<usize> = 22..=128;

/// Nobody who listens to a room is written to more often than this …
const PACE: Duration = Duration::from_millis(100);
/// … nor so often that all of them together are written to more than twenty thousand times a second.
const EACH: Duration = Duration::from_micros(50);

/// How long each of so many listeners rests after it was written to.
#[must_use]
pub fn pace(listeners: usize) -> Duration {
    PACE.max(EACH * u32::try_from(listeners).unwrap_or(u32::MAX))
}

/// A client's secret, checked.
pub struct Secret(String);

impl Secret {
    /// One that nobody has had.
    #[must_use]
    pub fn fresh() -> Self {
        Self(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
    }

    /// As the client keeps it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the room and the ticket know of it.
    fn hash(&self) -> Session {
        let mut half = Session::default();
        half.copy_from_slice(&Sha256::digest(&self.0)[..16]);
        half
    }
}

impl std::str::FromStr for Secret {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if SESSION.contains(&text.len()) && plain {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("Souk-Session", "is 22 to 128 visible ASCII characters that nobody can guess"))
    }
}

/// Joins a sale's room: the session's ticket, the same however often it asks.
///
/// # Errors
/// 404 where the sale has no waiting room, or is over; 503 where very many wait already.
pub async fn join(shop: &Shop, sale_id: SaleId, secret: &Secret) -> Result<(Ticket, String), Problem> {
    let session = secret.hash();
    let number = shop.engine.join(sale_id, session).await?;
    let ticket = Ticket { sale_id, number };
    Ok((ticket, seal(&shop.keys, ticket, session)))
}

fn seal(keys: &Keys, ticket: Ticket, session: Session) -> String {
    let mut payload = Vec::with_capacity(32);
    payload.extend(ticket.sale_id.0.to_be_bytes());
    payload.extend(ticket.number.to_be_bytes());
    payload.extend(session);
    keys.seal(PURPOSE, &payload)
}

fn unseal(keys: &Keys, sealed: &str) -> Option<(Ticket, Session)> {
    let payload = keys.unseal(PURPOSE, sealed)?;
    let (sale_id, rest) = payload.split_first_chunk::<8>()?;
    let (number, session) = rest.split_first_chunk::<8>()?;
    let ticket = Ticket { sale_id: SaleId(i64::from_be_bytes(*sale_id)), number: i64::from_be_bytes(*number) };
    Some((ticket, session.try_into().ok()?))
}

/// A ticket of this sale, whoever shows it: where it stands is no secret.
///
/// # Errors
/// `ticket_invalid`.
pub fn read(shop: &Shop, sale_id: SaleId, sealed: &str) -> Result<Ticket, Problem> {
    let ticket = unseal(&shop.keys, sealed).map(|(ticket, _)| ticket).filter(|ticket| ticket.sale_id == sale_id);
    ticket.ok_or_else(|| TicketFault::Invalid.into())
}

/// A ticket to buy with: only together with the session that it was given to.
///
/// # Errors
/// `ticket_invalid`.
pub fn own(shop: &Shop, sealed: &str, secret: Option<&Secret>) -> Result<Ticket, Problem> {
    let own = unseal(&shop.keys, sealed).filter(|(_, session)| secret.is_some_and(|secret| secret.hash() == *session));
    own.map(|(ticket, _)| ticket).ok_or_else(|| TicketFault::Invalid.into())
}

/// Where somebody stands, in one word: what there is to hope for counts for those who have not bought.
#[must_use]
pub fn state(view: &RoomView) -> &'static str {
    match view.standing {
        LineState::Used => "used",
        _ if view.outlook.over => "over",
        _ if view.outlook.sold_out => "sold_out",
        LineState::BeforeTheDraw => "before_start",
        LineState::Waiting { .. } => "waiting",
        LineState::Admitted { .. } => "admitted",
        LineState::Lapsed => "lapsed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_says_what_was_sealed_and_a_session_is_not_guessed() {
        let keys = Keys::new("staff".into(), "secret".into());
        let secret = Secret::fresh();
        let ticket = Ticket { sale_id: SaleId(7), number: 41 };
        let sealed = seal(&keys, ticket, secret.hash());
        assert_eq!(unseal(&keys, &sealed), Some((ticket, secret.hash())));
        assert_eq!(unseal(&Keys::new("staff".into(), "other".into()), &sealed), None);
        assert_eq!(unseal(&keys, &keys.seal(PURPOSE, b"short")), None);
        assert_ne!(secret.hash(), Secret::fresh().hash());
        assert!(secret.expose().parse::<Secret>().is_ok());
        for bad in ["", "too-short", &"x".repeat(129), "with a space in its middle"] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }
}
