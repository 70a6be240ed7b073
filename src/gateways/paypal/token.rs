//! The OAuth token: one for all calls, fetched by one of them, renewed before it ends.
//!
//! PayPal hands out tokens for about nine hours and limits how often; a token per call gets a shop blocked.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use souk_actors::{clock::Clock, ports::ProviderError};
use tokio::{sync::Mutex, time::Instant};

use super::wire;
use crate::gateways::Secret;

/// A token is renewed this long before it ends, so that none ends under way; a short-lived one at nine tenths.
const MARGIN: TimeDelta = TimeDelta::minutes(5);
/// How many seconds a token is good for when PayPal does not say.
const ASSUMED_LIFETIME: i64 = 60;
/// How many seconds a token is believed to be good for, whatever PayPal says.
const LONGEST_LIFETIME: i64 = 86_400;

/// PayPal's answer to `POST /v1/oauth2/token`, as far as it matters.
#[derive(Deserialize)]
pub(super) struct Granted {
    access_token: Secret,
    #[serde(default, deserialize_with = "wire::lenient")]
    expires_in: Option<i64>,
}

impl Granted {
    /// The grant in an answer's body, if its token can stand in a header.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let granted: Self = serde_json::from_slice(body).ok()?;
        let token = granted.access_token.expose();
        let fits = (1..=8192).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
        fits.then_some(granted)
    }

    fn good_until(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let seconds = self.expires_in.unwrap_or(ASSUMED_LIFETIME).clamp(0, LONGEST_LIFETIME);
        let lifetime = TimeDelta::seconds(seconds);
        now + lifetime - MARGIN.min(lifetime / 10)
    }
}

/// The token that is held, and the queue for it.
pub(super) struct Tokens {
    clock: Clock,
    held: Mutex<Held>,
}

enum Held {
    Nothing,
    Token {
        token: Secret,
        good_until: DateTime<Utc>,
    },
    /// What the last fetch came to, for those who were waiting for it.
    Failed {
        at: Instant,
        error: ProviderError,
    },
}

impl Tokens {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, held: Mutex::new(Held::Nothing) }
    }

    /// The token, fetched by `fetch` if there is no good one. Those who come meanwhile wait for that one fetch and
    /// share its failure too; who comes later tries again. Dropping the call that fetches passes the turn on.
    pub(super) async fn get<F>(&self, fetch: F) -> Result<Secret, ProviderError>
    where
        F: Future<Output = Result<Granted, ProviderError>>,
    {
        let came = Instant::now();
        let mut held = self.held.lock().await;
        match &*held {
            Held::Token { token, good_until } if self.clock.now() < *good_until => return Ok(token.clone()),
            Held::Failed { at, error } if came <= *at => return Err(error.clone()),
            Held::Nothing | Held::Token { .. } | Held::Failed { .. } => {}
        }
        match fetch.await {
            Ok(granted) => {
                let good_until = granted.good_until(self.clock.now());
                *held = Held::Token { token: granted.access_token.clone(), good_until };
                Ok(granted.access_token)
            }
            Err(error) => {
                *held = Held::Failed { at: Instant::now(), error: error.clone() };
                Err(error)
            }
        }
    }

    /// Forgets `refused`, unless somebody has replaced it already.
    pub(super) async fn forget(&self, refused: &Secret) {
        let mut held = self.held.lock().await;
        if matches!(&*held, Held::Token { token, .. } if token == refused) {
            *held = Held::Nothing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    fn granted(token: &str, expires_in: &str) -> Granted {
        let body =
            format!(r#"{{"scope":"x","access_token":"{token}","token_type":"Bearer","expires_in":{expires_in}}}"#);
        Granted::read(body.as_bytes()).expect("a grant")
    }

    #[tokio::test]
    async fn many_callers_make_one_fetch_and_share_its_failure() {
        let tokens = Tokens::new(Clock::default());
        let fetches = AtomicUsize::new(0);
        let failing = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(ProviderError::Rejected("invalid_client".to_owned()))
        };
        let answers = futures::future::join_all((0..50).map(|_| tokens.get(failing()))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(fetches.load(Ordering::Relaxed), 1);

        tokio::time::sleep(Duration::from_millis(1)).await;
        let fetching = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(granted("A21", "32400"))
        };
        let answers = futures::future::join_all((0..50).map(|_| tokens.get(fetching()))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(fetches.load(Ordering::Relaxed), 2, "a failure is not kept");
    }

    #[tokio::test]
    async fn a_token_is_renewed_before_it_ends() {
        let clock = Clock::default();
        let tokens = Tokens::new(clock.clone());
        let get = |token: &'static str| tokens.get(async move { Ok(granted(token, "32400")) });
        assert_eq!(get("first").await.expect("a token").expose(), "first");
        clock.advance(TimeDelta::seconds(32_400 - 310));
        assert_eq!(get("second").await.expect("a token").expose(), "first");
        clock.advance(TimeDelta::seconds(20));
        assert_eq!(get("second").await.expect("a token").expose(), "second");
    }

    #[tokio::test]
    async fn only_the_refused_token_is_forgotten() {
        let tokens = Tokens::new(Clock::default());
        let get = |token: &'static str| tokens.get(async move { Ok(granted(token, "32400")) });
        let first = get("first").await.expect("a token");
        tokens.forget(&first).await;
        assert_eq!(get("second").await.expect("a token").expose(), "second");
        tokens.forget(&first).await;
        assert_eq!(get("third").await.expect("a token").expose(), "second");
    }

    #[test]
    fn a_grant_is_read_leniently_but_its_token_is_not() {
        assert!(Granted::read(br#"{"access_token":"A21","expires_in":"nine hours"}"#).is_some());
        for bad in [r#"{}"#, r#"{"access_token":""}"#, r#"{"access_token":"a\nb"}"#, "<html>"] {
            assert!(Granted::read(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_never_shows() {
        assert!(!format!("{:?}", granted("A21-very-secret", "1").access_token).contains("very-secret"));
    }
}
