//! The sandbox is a mail relay too: over real SMTP, once with a real client and once with a bare socket.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart},
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{Certificate, Tls, TlsParameters},
    },
};
use reqwest::Client;
use serde_json::{Value, json};
use souk::sandbox::{MailSettings, Sandbox, Settings, ShippoSettings, start};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::support::open_sandbox;

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// A sandbox of which only the mail relay matters.
pub(crate) fn settings(dir: &Path, mail: MailSettings) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        dir: dir.to_owned(),
        client_id: "shop".into(),
        client_secret: "s3cret".into(),
        webhook_id: "WH".into(),
        webhook_url: "http://127.0.0.1:9/".into(),
        retry: Vec::new(),
        shippo: ShippoSettings::default(),
        mail,
    }
}

/// A sandbox, and somebody who sends and looks.
struct Town {
    dir: TempDir,
    sandbox: Sandbox,
    http: Client,
}

impl Town {
    async fn new() -> Self {
        Self::with(MailSettings::default()).await
    }

    async fn with(mail: MailSettings) -> Self {
        let dir = TempDir::new().expect("a directory");
        let sandbox = open_sandbox(settings(dir.path(), mail)).await;
        let http = Client::builder().no_proxy().build().expect("a client");
        Self { dir, sandbox, http }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.addr)
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(self.url(path)).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    async fn page(&self, path: &str) -> (u16, String, String) {
        let response = self.http.get(self.url(path)).send().await.expect("an answer");
        let policy = response.headers().get("content-security-policy").and_then(|value| value.to_str().ok());
        let (status, policy) = (response.status().as_u16(), policy.unwrap_or_default().to_owned());
        (status, policy, response.text().await.expect("a page"))
    }

    async fn mails(&self) -> Vec<Value> {
        self.get("/_sandbox/mail").await["mails"].as_array().expect("a list").clone()
    }

    async fn fault(&self, rule: Value) -> u16 {
        let request = self.http.post(self.url("/_sandbox/mail/faults")).json(&rule);
        request.send().await.expect("an answer").status().as_u16()
    }

    fn transport(&self) -> lettre::transport::smtp::AsyncSmtpTransportBuilder {
        Transport::builder_dangerous("127.0.0.1").port(self.sandbox.smtp_addr.port())
    }

    async fn raw(&self) -> Talk {
        let stream = TcpStream::connect(self.sandbox.smtp_addr).await.expect("it listens");
        let mut talk = Talk(BufReader::new(stream));
        assert!(talk.reply().await.starts_with("220 "));
        talk
    }
}

/// One who types SMTP by hand.
struct Talk(BufReader<TcpStream>);

impl Talk {
    /// The last line of the next reply; empty when the other side has hung up.
    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).await.unwrap_or(0);
            if read == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("it listens");
    }

    async fn say(&mut self, line: &str) -> String {
        self.write(&format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Says it and hears this code.
    async fn expect(&mut self, line: &str, code: &str) {
        let reply = self.say(line).await;
        assert!(reply.starts_with(code), "{line}: {reply}");
    }

    async fn begin(&mut self) {
        self.expect("EHLO test", "250").await;
        self.expect("MAIL FROM:<a@shop.example>", "250").await;
        self.expect("RCPT TO:<b@example.com>", "250").await;
    }
}

fn message(to: &str, subject: &str) -> Message {
    let mailbox = |text: &str| text.parse::<Mailbox>().expect("a mailbox");
    Message::builder()
        .from(mailbox("Souk <shop@souk.example>"))
        .to(mailbox(to))
        .subject(subject)
        .message_id(Some("<order-7.confirmed@souk.example>".to_owned()))
        .multipart(MultiPart::alternative_plain_html(
            "Thank you.\n.A line with a dot\n".to_owned(),
            "<p>Thank <b>you</b>.</p><script>alert(1)</script>".to_owned(),
        ))
        .expect("a message")
}

#[tokio::test]
async fn what_is_sent_is_kept_and_can_be_found() {
    let town = Town::new().await;
    assert_eq!(town.get("/_sandbox/health").await["smtp"], town.sandbox.smtp_addr.to_string());
    let transport = town.transport().build();
    transport.send(message("Ada Ünal <ada@example.com>", "Your order – confirmed")).await.expect("it is taken");
    transport.send(message("bob@example.com", "Shipped")).await.expect("it is taken");

    let mail = town.get("/_sandbox/mail?to=ADA@&subject=confirmed").await;
    assert_eq!(mail["total"], 1);
    let mail = &mail["mails"][0];
    assert_eq!(
        (&mail["from"], &mail["to"]),
        (&json!("Souk <shop@souk.example>"), &json!(["Ada Ünal <ada@example.com>"]))
    );
    assert_eq!(
        (&mail["subject"], &mail["message_id"]),
        (&json!("Your order – confirmed"), &json!("order-7.confirmed@souk.example"))
    );
    assert!(mail["text"].as_str().expect("text").contains("\n.A line with a dot"), "{mail}");
    assert!(mail["html"].as_str().expect("html").contains("<b>you</b>"));
    assert_eq!(mail["envelope"], json!({"from": "shop@souk.example", "to": ["ada@example.com"]}));
    assert_eq!((&mail["tls"], &mail["user"]), (&json!(false), &Value::Null));
    let headers = mail["headers"].as_array().expect("a list");
    assert!(headers.iter().any(|header| header["name"] == "Subject"));
    assert_eq!(town.get("/_sandbox/mail?to=carol").await["total"], 0);

    let Town { dir, sandbox, http } = town;
    sandbox.stop().await;
    let sandbox = start(settings(dir.path(), MailSettings::default())).await.expect("it starts again");
    let town = Town { dir, sandbox, http };
    assert_eq!(town.mails().await.len(), 2, "kept across a restart");
    let emptied = town.http.delete(town.url("/_sandbox/mail")).send().await.expect("an answer");
    assert_eq!((emptied.status().as_u16(), town.mails().await.len()), (204, 0));
}

#[tokio::test]
async fn starttls_shows_a_certificate_of_the_sandboxs_ca() {
    let town = Town::new().await;
    let send = async |tls: TlsParameters| {
        let transport = town.transport().tls(Tls::Required(tls)).build();
        transport.send(message("ada@example.com", "Secret")).await
    };
    let root = std::fs::read(town.dir.path().join("root.pem")).expect("the root");
    let trusting = TlsParameters::builder("localhost".to_owned());
    let trusting = trusting.add_root_certificate(Certificate::from_pem(&root).expect("PEM")).build_rustls();
    send(trusting.expect("parameters")).await.expect("it is taken");
    assert_eq!(town.mails().await[0]["tls"], true);
    let error = send(TlsParameters::new_rustls("localhost".to_owned()).expect("parameters")).await;
    assert!(error.is_err(), "who does not trust the CA does not send");
}

#[tokio::test]
async fn what_comes_before_the_handshake_is_not_heard_after_it() {
    let town = Town::new().await;
    let mut talk = town.raw().await;
    talk.expect("EHLO test", "250").await;
    talk.write("STARTTLS\r\nMAIL FROM:<evil@example.com>\r\n").await;
    assert!(talk.reply().await.starts_with("220"));
    let mut rest = Vec::new();
    talk.write("this is no handshake").await;
    let _closed = talk.0.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("250"), "the command was thrown away");
}

#[tokio::test]
async fn with_credentials_set_only_who_knows_them_may_send() {
    let mail = MailSettings { user: "apikey".into(), password: "hunter2".into(), ..MailSettings::default() };
    let town = Town::with(mail).await;
    for (mechanism, password, is_taken) in [
        (Mechanism::Plain, "hunter2", true),
        (Mechanism::Login, "hunter2", true),
        (Mechanism::Plain, "hunter3", false),
        (Mechanism::Login, "hunter3", false),
    ] {
        let credentials = Credentials::new("apikey".into(), password.into());
        let transport = town.transport().credentials(credentials).authentication(vec![mechanism]).build();
        let sent = transport.send(message("ada@example.com", "Hello")).await;
        assert_eq!(sent.is_ok(), is_taken, "{mechanism:?} {password} {sent:?}");
    }
    assert!(town.transport().build().send(message("ada@example.com", "Hello")).await.is_err());
    assert_eq!(town.mails().await[0]["user"], "apikey");

    let mut talk = town.raw().await;
    talk.expect("EHLO test", "250").await;
    talk.expect("MAIL FROM:<a@shop.example>", "530").await;
    talk.expect("AUTH CRAM-MD5", "504").await;
    talk.expect("AUTH PLAIN !!!", "501").await;
    talk.expect(&format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0apikey\0hunter2")), "235").await;
    talk.expect("MAIL FROM:<a@shop.example>", "250").await;
}

#[tokio::test]
async fn commands_have_an_order() {
    let town = Town::new().await;
    let mut talk = town.raw().await;
    talk.expect("MAIL FROM:<a@shop.example>", "503").await;
    talk.expect("EHLO test", "250").await;
    talk.expect("RCPT TO:<b@example.com>", "503").await;
    talk.expect("DATA", "503").await;
    talk.expect("MAIL FROM:a@shop.example", "501").await;
    talk.expect("MAIL FROM:<a@shop.example> SIZE=99999999", "552").await;
    talk.expect("mail from:<> BODY=8BITMIME SIZE=10", "250").await;
    talk.expect("MAIL FROM:<a@shop.example>", "503").await;
    talk.expect("RCPT TO:<nobody>", "501").await;
    talk.expect("RSET", "250").await;
    talk.expect("RCPT TO:<b@example.com>", "503").await;
    talk.expect("NOOP", "250").await;
    talk.expect("VRFY b", "252").await;
    talk.expect("EXPN list", "500").await;
    talk.expect("HELO test", "250").await;
    talk.expect("QUIT", "221").await;
    assert_eq!(talk.reply().await, "");
}

#[tokio::test]
async fn commands_may_come_in_one_piece_and_dots_are_unstuffed() {
    let town = Town::new().await;
    let mut talk = town.raw().await;
    talk.expect("EHLO test", "250").await;
    talk.write("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n").await;
    for code in ["250", "250", "250", "354"] {
        assert!(talk.reply().await.starts_with(code));
    }
    // a dot after a bare line feed ends nothing: no second message can hide behind it
    talk.write("Subject: x\r\n\r\n..hidden\r\nbare\n.\r\nMAIL FROM:<evil@example.com>\r\n.\r\n").await;
    assert!(talk.reply().await.starts_with("250"));
    let mails = town.mails().await;
    assert_eq!((mails.len(), &mails[0]["envelope"]["to"]), (1, &json!(["b@example.com", "c@example.com"])));
    let raw = town.http.get(town.url("/_sandbox/mail/1/raw")).send().await.expect("an answer");
    assert_eq!(
        raw.text().await.expect("text"),
        "Subject: x\r\n\r\n.hidden\r\nbare\n.\r\nMAIL FROM:<evil@example.com>\r\n"
    );
}

#[tokio::test]
async fn the_relay_can_be_down_slow_busy_and_particular() {
    let town = Town::new().await;
    town.fault(json!({"kind": "down", "times": 1})).await;
    let mut talk = Talk(BufReader::new(TcpStream::connect(town.sandbox.smtp_addr).await.expect("it listens")));
    assert_eq!(talk.reply().await, "");

    town.fault(json!({"kind": "slow", "ms": 80, "times": 2})).await;
    let before = std::time::Instant::now();
    let mut talk = town.raw().await;
    talk.expect("EHLO test", "250").await;
    assert!(before.elapsed().as_millis() >= 160);

    town.fault(json!({"kind": "greylist", "code": 451, "times": 1})).await;
    town.fault(json!({"kind": "refuse", "to": "nobody@", "times": 0})).await;
    talk.expect("MAIL FROM:<a@shop.example>", "250").await;
    talk.expect("RCPT TO:<b@example.com>", "451").await;
    talk.expect("RCPT TO:<b@example.com>", "250").await;
    talk.expect("RCPT TO:<nobody@example.com>", "550").await;
    talk.expect("RCPT TO:<nobody@example.com>", "550").await;
    town.http.delete(town.url("/_sandbox/mail/faults")).send().await.expect("an answer");
    talk.expect("RCPT TO:<nobody@example.com>", "250").await;

    town.fault(json!({"kind": "greylist", "code": 421, "at": "content"})).await;
    talk.expect("DATA", "354").await;
    talk.expect("Subject: x\r\n\r\n.", "421").await;
    assert_eq!((talk.reply().await.as_str(), town.mails().await.len()), ("", 0));

    town.fault(json!({"kind": "garbage"})).await;
    let mut talk = Talk(BufReader::new(TcpStream::connect(town.sandbox.smtp_addr).await.expect("it listens")));
    assert!(!talk.reply().await.starts_with("220"));
    for (moment, commands) in [("connect", 0), ("mail", 1), ("data", 3)] {
        town.fault(json!({"kind": "greylist", "at": moment})).await;
        let mut talk = Talk(BufReader::new(TcpStream::connect(town.sandbox.smtp_addr).await.expect("it listens")));
        let mut replies = vec![talk.reply().await];
        for line in ["EHLO t", "MAIL FROM:<a@b.c>", "RCPT TO:<b@b.c>", "DATA"].iter().take(commands + 1) {
            if commands > 0 {
                replies.push(talk.say(line).await);
            }
        }
        assert!(replies.last().is_some_and(|reply| reply.starts_with("450")), "{moment}: {replies:?}");
    }
    assert_eq!(town.fault(json!({"kind": "down", "tims": 3})).await, 400);
    assert_eq!(town.fault(json!({"kind": "sleepy"})).await, 400);
}

#[tokio::test]
async fn a_connection_is_cut_where_it_hurts() {
    let town = Town::new().await;
    for (fault, is_kept) in
        [("drop_before_data", false), ("drop_in_data", false), ("drop_after_lost", false), ("drop_after_kept", true)]
    {
        town.fault(json!({"kind": fault})).await;
        let mut talk = town.raw().await;
        talk.begin().await;
        if fault == "drop_before_data" {
            assert_eq!(talk.say("DATA").await, "");
        } else {
            talk.expect("DATA", "354").await;
            let reply = talk.say("Subject: cut\r\n\r\nBody\r\n.").await;
            assert_eq!(reply, "", "{fault}");
        }
        assert_eq!(town.mails().await.len(), usize::from(is_kept), "{fault}");
    }
    assert_eq!(town.get("/_sandbox/mail/faults").await, json!({"faults": []}));
    let error = {
        town.fault(json!({"kind": "drop_after_kept"})).await;
        town.transport().build().send(message("ada@example.com", "Ambiguous")).await
    };
    assert!(error.is_err_and(|error| !error.is_permanent()));
    assert_eq!(town.get("/_sandbox/mail?subject=ambiguous").await["total"], 1, "and yet it is there");
}

#[tokio::test]
async fn people_look_at_their_mail() {
    let town = Town::new().await;
    let (status, policy, page) = town.page("/inbox").await;
    assert_eq!((status, page.contains("Nothing has been sent yet")), (200, true));
    assert!(policy.starts_with("default-src 'none'"));
    town.transport().build().send(message("ada@example.com", "<i>Hello</i>")).await.expect("it is taken");

    let (_, _, page) = town.page("/inbox").await;
    assert!(page.contains("<a href=\"/inbox/1\">&lt;i&gt;Hello&lt;/i&gt;</a>"), "{page}");
    let (status, policy, page) = town.page("/inbox/1").await;
    assert_eq!(status, 200);
    assert!(!policy.contains("script") && page.contains("&lt;script&gt;") && !page.contains("<script>"));
    assert!(page.contains("<iframe title=\"The mail as HTML\" sandbox=") && !page.contains("allow-scripts"));
    assert!(page.contains("order-7.confirmed@souk.example") && page.contains("Thank you."));
    assert_eq!(town.page("/inbox/7").await.0, 404);
    let emptied = town.http.post(town.url("/inbox/empty")).send().await.expect("an answer");
    assert_eq!(emptied.url().path(), "/inbox");
    assert!(town.mails().await.is_empty());
}
