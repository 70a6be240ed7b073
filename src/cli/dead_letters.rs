//! `souk dead-letters`: mails and calls of merchants that a running shop has given up, and a way to have them tried again.

use std::process::ExitCode;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::{Failure, nobody};
use crate::{app, config::Config};

pub(super) async fn run(config: Config, replay: Option<String>) -> Result<ExitCode, Failure> {
    let token = app::staff_token(&config)?;
    let base = format!("http://{}/v1/ops/dead-letters", config.http.listen);
    let ask = |method, rest: &str| Client::new().request(method, format!("{base}{rest}")).bearer_auth(token.expose());
    match replay.as_deref() {
        None => list(&config, ask).await,
        Some("all") => {
            let answer = ask(Method::POST, "/replay").send().await.map_err(|_| nobody(&config))?;
            let answer: Value = answer.error_for_status()?.json().await?;
            println!("{} are tried again.", answer["replayed"]);
            Ok(ExitCode::SUCCESS)
        }
        Some(id) => {
            let answer = ask(Method::POST, &format!("/{id}/replay")).send().await.map_err(|_| nobody(&config))?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Err(format!("there is no dead letter {id}").into());
            }
            answer.error_for_status()?;
            println!("{id} is tried again.");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A line each, newest first.
async fn list(config: &Config, ask: impl Fn(Method, &str) -> RequestBuilder) -> Result<ExitCode, Failure> {
    let mut cursor = String::new();
    loop {
        let page = ask(Method::GET, &format!("?limit=100{cursor}")).send().await.map_err(|_| nobody(config))?;
        let page: Value = page.error_for_status()?.json().await?;
        for letter in page["dead_letters"].as_array().into_iter().flatten() {
            println!("{}", line(letter));
        }
        let Some(next) = page["next_cursor"].as_str() else { return Ok(ExitCode::SUCCESS) };
        cursor = format!("&cursor={next}");
    }
}

fn line(letter: &Value) -> String {
    let text = |field: &str| letter[field].as_str().unwrap_or("?").to_owned();
    let to = letter["subscription_id"].as_str().unwrap_or("the buyer");
    format!(
        "{}  {}  {} of {} to {to}  {} tries  {}",
        text("notice_id"),
        text("created_at"),
        text("kind"),
        text("order_id"),
        letter["attempts"],
        text("last_error"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_a_line() {
        let letter = serde_json::json!({
            "notice_id": "notice_a", "channel": "mail", "order_id": "order_b", "kind": "confirmed", "attempts": 1,
            "last_error": "refused: the mail server answered 550", "created_at": "2026-11-24T02:00:00Z",
        });
        let want = "notice_a  2026-11-24T02:00:00Z  confirmed of order_b to the buyer  1 tries  refused: the mail server \
                    answered 550";
        assert_eq!(line(&letter), want);
    }
}
