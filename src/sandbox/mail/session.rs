//! One connection of SMTP (RFC 5321), as a relay speaks it: EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA.

use std::{io, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    faults::Moment,
    relay::{Envelope, Relay},
};

/// The largest message that is taken; as EHLO says.
const SIZE: usize = 10 << 20;
/// The longest line of a command, AUTH's included.
const LINE: u64 = 12 << 10;
const RECIPIENTS: usize = 100;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

struct Session {
    relay: Arc<Relay>,
    wire: BufReader<Box<dyn Wire>>,
    greeted: bool,
    tls: bool,
    user: Option<String>,
    /// After MAIL.
    envelope: Option<Envelope>,
}

/// What follows a command.
enum Next {
    Go,
    StartTls,
    Close,
}

/// Talks until somebody hangs up.
pub(super) async fn run(relay: Arc<Relay>, stream: TcpStream) {
    if relay.faults.is_down() {
        return;
    }
    let wire = BufReader::new(Box::new(stream) as Box<dyn Wire>);
    let session = Session { relay, wire, greeted: false, tls: false, user: None, envelope: None };
    if let Err(error) = session.talk().await {
        tracing::debug!(%error, "sandbox: a mail client has hung up");
    }
}

impl Session {
    async fn talk(mut self) -> io::Result<()> {
        if let Some(code) = self.relay.faults.greylists(Moment::Connect) {
            return self.reply(&format!("{code} souk.sandbox is busy")).await;
        }
        self.reply("220 souk.sandbox ESMTP").await?;
        loop {
            let Some(line) = self.line().await? else { return Ok(()) };
            match self.command(&line).await? {
                Next::Go => {}
                Next::StartTls => self = self.encrypted().await?,
                Next::Close => return Ok(()),
            }
        }
    }

    /// The next line without its end, or nothing when the other side has closed.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let read = (&mut self.wire).take(LINE).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line too long, or cut off"));
        }
        Ok(Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()))
    }

    /// Replies, late or unreadably if that is scripted.
    async fn reply(&mut self, text: &str) -> io::Result<()> {
        if let Some(pause) = self.relay.faults.pause() {
            tokio::time::sleep(pause).await;
        }
        let text = if self.relay.faults.garbles() { "\u{1}\u{2}GIF89a no such thing" } else { text };
        self.wire.write_all(format!("{text}\r\n").as_bytes()).await?;
        self.wire.flush().await
    }

    async fn go(&mut self, text: &str) -> io::Result<Next> {
        self.reply(text).await.map(|()| Next::Go)
    }

    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.hello().await,
            "HELO" => {
                self.greeted = true;
                self.envelope = None;
                self.go("250 souk.sandbox").await
            }
            "STARTTLS" if self.tls => self.go("503 5.5.1 This connection is encrypted already").await,
            "STARTTLS" => {
                self.reply("220 2.0.0 Ready to start TLS").await?;
                Ok(Next::StartTls)
            }
            "AUTH" => self.auth(rest).await,
            "MAIL" => self.mail(rest).await,
            "RCPT" => self.rcpt(rest).await,
            "DATA" => self.data().await,
            "RSET" => {
                self.envelope = None;
                self.go("250 2.0.0 Forgotten").await
            }
            "NOOP" => self.go("250 2.0.0 Nothing done").await,
            "VRFY" => self.go("252 2.5.2 Send and see").await,
            "QUIT" => {
                self.reply("221 2.0.0 Bye").await?;
                Ok(Next::Close)
            }
            _ => self.go("500 5.5.2 Unknown command").await,
        }
    }

    async fn hello(&mut self) -> io::Result<Next> {
        self.greeted = true;
        self.envelope = None;
        let starttls = if self.tls { "" } else { "250-STARTTLS\r\n" };
        let lines = format!(
            "250-souk.sandbox\r\n250-PIPELINING\r\n250-SIZE {SIZE}\r\n{starttls}250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250 AUTH PLAIN LOGIN"
        );
        self.go(&lines).await
    }

    /// What was sent in the clear before the handshake is thrown away, as RFC 3207 wants.
    async fn encrypted(self) -> io::Result<Self> {
        let wire = self.relay.tls.accept(self.wire.into_inner()).await?;
        let wire = BufReader::new(Box::new(wire) as Box<dyn Wire>);
        Ok(Self { wire, greeted: false, tls: true, user: None, envelope: None, ..self })
    }

    async fn auth(&mut self, rest: &str) -> io::Result<Next> {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let credentials = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let text = if initial.is_empty() { self.ask("").await? } else { decoded(initial) };
                // authorization, name and password, with zero bytes between them
                text.and_then(|text| {
                    let mut parts = text.splitn(3, '\0').skip(1).map(str::to_owned);
                    Some((parts.next()?, parts.next()?))
                })
            }
            "LOGIN" => {
                let name = if initial.is_empty() { self.ask("Username:").await? } else { decoded(initial) };
                let password = self.ask("Password:").await?;
                name.zip(password)
            }
            _ => return self.go("504 5.5.4 Unknown mechanism").await,
        };
        let Some((name, password)) = credentials else {
            return self.go("501 5.5.2 These are no credentials").await;
        };
        if !self.knows(&name, &password) {
            return self.go("535 5.7.8 Authentication failed").await;
        }
        self.user = Some(name);
        self.go("235 2.7.0 Welcome").await
    }

    async fn ask(&mut self, prompt: &str) -> io::Result<Option<String>> {
        self.reply(&format!("334 {}", BASE64_STANDARD.encode(prompt))).await?;
        Ok(self.line().await?.as_deref().and_then(decoded))
    }

    fn knows(&self, name: &str, password: &str) -> bool {
        let settings = &self.relay.settings;
        let same = |left: &str, right: &str| bool::from(left.as_bytes().ct_eq(right.as_bytes()));
        settings.user.is_empty() || (same(&settings.user, name) && same(&settings.password, password))
    }

    async fn mail(&mut self, rest: &str) -> io::Result<Next> {
        if !self.greeted {
            return self.go("503 5.5.1 EHLO first").await;
        }
        if self.envelope.is_some() {
            return self.go("503 5.5.1 One sender is enough").await;
        }
        if !self.relay.settings.user.is_empty() && self.user.is_none() {
            return self.go("530 5.7.0 Authentication required").await;
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            return self.go("501 5.5.4 MAIL FROM:<address>").await;
        };
        let sizes = parameters
            .split_whitespace()
            .filter_map(|parameter| parameter.to_ascii_uppercase().strip_prefix("SIZE=")?.parse().ok());
        if sizes.into_iter().any(|size: usize| size > SIZE) {
            return self.go("552 5.3.4 Too large").await;
        }
        if let Some(code) = self.relay.faults.greylists(Moment::Mail) {
            return self.busy(code).await;
        }
        self.envelope = Some(Envelope { from: from.to_owned(), to: Vec::new() });
        self.go("250 2.1.0 Sender ok").await
    }

    async fn rcpt(&mut self, rest: &str) -> io::Result<Next> {
        let Some(envelope) = &mut self.envelope else { return self.go("503 5.5.1 MAIL first").await };
        let Some((to, _)) = path(rest, "TO:").filter(|(to, _)| to.contains('@')) else {
            return self.go("501 5.5.4 RCPT TO:<address>").await;
        };
        if envelope.to.len() == RECIPIENTS {
            return self.go("452 4.5.3 Too many recipients").await;
        }
        if let Some(code) = self.relay.faults.greylists(Moment::Rcpt) {
            return self.busy(code).await;
        }
        if let Some(code) = self.relay.faults.refuses(to) {
            return self.go(&format!("{code} 5.1.1 No such mailbox here")).await;
        }
        envelope.to.push(to.to_owned());
        self.go("250 2.1.5 Recipient ok").await
    }

    async fn data(&mut self) -> io::Result<Next> {
        if self.envelope.as_ref().is_none_or(|envelope| envelope.to.is_empty()) {
            return self.go("503 5.5.1 RCPT first").await;
        }
        if self.relay.faults.drops_before_data() {
            return Ok(Next::Close);
        }
        if let Some(code) = self.relay.faults.greylists(Moment::Data) {
            return self.busy(code).await;
        }
        self.reply("354 End with a line of one dot").await?;
        if self.relay.faults.drops_in_data() {
            let mut first = Vec::new();
            (&mut self.wire).take(LINE).read_until(b'\n', &mut first).await?;
            return Ok(Next::Close);
        }
        let content = self.content().await?;
        let envelope = self.envelope.take().unwrap_or_default();
        let Some(raw) = content else { return self.go("552 5.3.4 Too large").await };
        if let Some(code) = self.relay.faults.greylists(Moment::Content) {
            return self.busy(code).await;
        }
        self.take(envelope, raw).await
    }

    async fn take(&mut self, envelope: Envelope, raw: Vec<u8>) -> io::Result<Next> {
        let cut = self.relay.faults.drops_after_data();
        if cut == Some(false) {
            return Ok(Next::Close);
        }
        let id = self.relay.keep(envelope, self.tls, self.user.clone(), raw).await?;
        if cut == Some(true) {
            return Ok(Next::Close);
        }
        self.go(&format!("250 2.0.0 Kept as {id}")).await
    }

    /// The message up to the line of one dot; nothing if it is too large. Only CR LF ends a line: a dot after a bare LF
    /// ends no message, or somebody could smuggle a second one into the first.
    async fn content(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        let mut at_start = true;
        let mut size = 0;
        loop {
            let mut line = Vec::new();
            let read = (&mut self.wire).take(SIZE as u64).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if at_start && line == b".\r\n" {
                return Ok((size <= SIZE).then_some(content));
            }
            size += read;
            if size <= SIZE {
                let stuffed = at_start && line[0] == b'.';
                content.extend_from_slice(if stuffed { &line[1..] } else { &line });
            }
            at_start = line.ends_with(b"\r\n");
        }
    }

    async fn busy(&mut self, code: u16) -> io::Result<Next> {
        self.reply(&format!("{code} 4.7.1 Come again later")).await?;
        // 421 says that the connection ends
        Ok(if code == 421 { Next::Close } else { Next::Go })
    }
}

fn decoded(text: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
    String::from_utf8(bytes).ok()
}

/// The address between the brackets after `FROM:` or `TO:`, and what follows it.
fn path<'a>(rest: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let head = rest.get(..word.len()).filter(|head| head.eq_ignore_ascii_case(word))?;
    let (address, parameters) = rest[head.len()..].trim_start().strip_prefix('<')?.split_once('>')?;
    Some((address, parameters))
}
