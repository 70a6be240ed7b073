//! The line to the mail server: one letter at a time, each step bounded, and always known how far it came.
//!
//! lettre's commands, not its pool: a letter that is given up half-way would leave its connection in the pool, and what
//! the next letter's sender writes would become the end of the first one's. Here a connection is only kept after a letter
//! has been taken.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use lettre::{
    Address,
    address::Envelope,
    transport::smtp::{
        Error,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailParameter},
    },
};
use souk_actors::{domain::printable, ports::SendError};

/// A connection that was not used for so long may have been closed at the other end.
const IDLE: Duration = Duration::from_secs(30);
/// Connections kept between letters.
const KEPT: usize = 8;

/// How a connection is kept private.
pub(super) enum Privacy {
    /// Not at all: on this machine only.
    None,
    /// It begins in the open and must become private before anything is said.
    StartTls(TlsParameters),
    /// From the first byte.
    Tls(TlsParameters),
}

/// A mail server, and connections to it.
pub(super) struct Line {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) privacy: Privacy,
    pub(super) credentials: Option<Credentials>,
    /// Each step of a conversation takes no longer.
    pub(super) timeout: Duration,
    pub(super) kept: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

/// How far a letter has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The server does not speak with us yet: what it says is not about this letter.
    Greeting,
    /// It has heard of the letter.
    Letter,
    /// It may have the letter.
    HandedOver,
}

impl Line {
    /// Hands a letter over. `Ok`: the server has taken it upon itself.
    ///
    /// # Errors
    /// [`SendError`] by what is certain.
    pub(super) async fn hand_over(&self, envelope: &Envelope, letter: &[u8]) -> Result<(), SendError> {
        let mut conn = self.connection().await?;
        self.name(&mut conn, envelope).await?;
        self.step(Step::HandedOver, conn.message(letter)).await?;
        let mut kept = self.kept.lock().expect("no panic under this lock");
        if kept.len() < KEPT {
            kept.push((conn, Instant::now()));
        }
        Ok(())
    }

    /// A connection that has been kept and still answers, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, SendError> {
        while let Some(mut conn) = self.pick() {
            if self.step(Step::Greeting, conn.command(Rset)).await.is_ok() {
                return Ok(conn);
            }
        }
        self.connect().await
    }

    fn pick(&self) -> Option<AsyncSmtpConnection> {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.retain(|(_, since)| since.elapsed() < IDLE);
        kept.pop().map(|(conn, _)| conn)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let hello = ClientId::default();
        let private = match &self.privacy {
            Privacy::Tls(parameters) => Some(parameters.clone()),
            Privacy::None | Privacy::StartTls(_) => None,
        };
        let place = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(place, Some(self.timeout), &hello, private, None);
        let mut conn = self.step(Step::Greeting, connecting).await?;
        if let Privacy::StartTls(parameters) = &self.privacy {
            self.step(Step::Greeting, conn.starttls(parameters.clone(), &hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            self.step(Step::Greeting, conn.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(conn)
    }

    /// Says from whom and to whom, and that the letter follows.
    async fn name(&self, conn: &mut AsyncSmtpConnection, envelope: &Envelope) -> Result<(), SendError> {
        let mut options = Vec::new();
        let ascii = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        if !envelope.to().iter().chain(envelope.from()).all(ascii) {
            if !conn.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(SendError::Refused("the mail server takes no such address".to_owned()));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        // a sender who is refused is our setting, not this letter's fault
        self.step(Step::Greeting, conn.command(Mail::new(envelope.from().cloned(), options))).await?;
        for to in envelope.to() {
            self.step(Step::Letter, conn.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        }
        self.step(Step::Letter, conn.command(Data)).await?;
        Ok(())
    }

    async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T, Error>>) -> Result<T, SendError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(answer) => answer.map_err(|error| failed(step, &error)),
            Err(_) if step == Step::HandedOver => Err(SendError::Unknown("the mail server is silent".to_owned())),
            Err(_) => Err(SendError::NotNow("the mail server is silent".to_owned())),
        }
    }
}

/// What follows from an answer, or from none. The server's own words may name the buyer's address: its code must do.
fn failed(step: Step, error: &Error) -> SendError {
    match (error.status(), step) {
        (Some(code), Step::Letter | Step::HandedOver) if error.is_permanent() => {
            SendError::Refused(format!("the mail server answered {code}"))
        }
        (Some(code), _) => SendError::NotNow(format!("the mail server answered {code}")),
        (None, Step::HandedOver) => {
            SendError::Unknown("the mail server did not say whether it has the mail".to_owned())
        }
        (None, Step::Letter) => SendError::NotNow("the mail server hung up".to_owned()),
        (None, Step::Greeting) => SendError::NotNow(printable(&error.to_string())),
    }
}
