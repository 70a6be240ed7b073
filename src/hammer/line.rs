//! One keep-alive connection of HTTP/1.1, as cheap as it gets: the generator shares its cores with the shop, so what it
//! spends the shop lacks. The request is bytes that the caller has made before, the answer is read in place; a connection
//! that breaks is made again, ever more patiently.

use std::{fmt::Write as _, io, net::SocketAddr, ops::Range, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout},
};

/// Headers of an answer, at most.
const HEADERS: usize = 64;
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;
/// How long a connection may lie unused: a server may have hung up by then, and a request on it would be lost.
const IDLE: Duration = Duration::from_secs(20);
/// The first and the longest pause before a server that is not there is called again.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Whom to ask: a server on this side of any TLS.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the Host header says it.
    pub host: String,
    addr: SocketAddr,
}

impl Target {
    /// The server of `http://host:port`, looked up once.
    ///
    /// # Errors
    /// No such address, or one that is not plain http.
    pub async fn of(url: &str) -> Result<Self, String> {
        let Some(host) = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
            return Err(format!(
                "{url}: an address begins with http:// here; TLS would be measured instead of the shop"
            ));
        };
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let mut found = lookup_host(&with_port).await.map_err(|error| format!("{url}: {error}"))?;
        let addr = found.next().ok_or_else(|| format!("{url}: has no address"))?;
        Ok(Self { host: host.to_owned(), addr })
    }

    /// A whole request, ready to be sent; `headers` are lines that end with `\r\n`.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, headers: &str, body: Option<&str>) -> Vec<u8> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}", self.host);
        if let Some(body) = body {
            let length = body.len();
            write!(request, "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").ok();
        } else {
            request.push_str("\r\n");
        }
        request.into_bytes()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// Nobody answered the call: it was surely not asked.
    #[error("no connection")]
    Unreached,
    /// In time there was none.
    #[error("timed out")]
    TimedOut,
    /// The connection broke after it was asked.
    #[error("connection lost")]
    Broken,
    /// It is not HTTP, or no HTTP that is read here: an answer has a Content-Length.
    #[error("not understood")]
    Garbled,
}

/// An answer, read in place.
#[derive(Debug)]
pub struct Reply<'a> {
    /// E.g. 201.
    pub status: u16,
    /// As it came.
    pub body: &'a [u8],
}

/// A connection.
pub struct Line {
    target: Target,
    /// How long an answer may take, connecting included.
    patience: Duration,
    stream: Option<TcpStream>,
    used: Instant,
    input: Vec<u8>,
}

/// What was read of an answer's head.
struct Head {
    status: u16,
    body: Range<usize>,
    closes: bool,
}

impl Line {
    /// Not connected before it is needed.
    #[must_use]
    pub fn new(target: Target, patience: Duration) -> Self {
        Self { target, patience, stream: None, used: Instant::now(), input: Vec::with_capacity(4_096) }
    }

    /// Sends a request and reads its answer. Whatever goes wrong, the line can be used again.
    ///
    /// # Errors
    /// Only [`Lost::Unreached`] says that nothing was asked.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Reply<'_>, Lost> {
        let mut sent = false;
        let answered = timeout(self.patience, self.exchange(request, &mut sent)).await;
        let head = answered.unwrap_or(Err(if sent { Lost::TimedOut } else { Lost::Unreached }));
        if head.as_ref().map_or(true, |head| head.closes) {
            self.stream = None;
        }
        let head = head?;
        Ok(Reply { status: head.status, body: &self.input[head.body] })
    }

    async fn exchange(&mut self, request: &[u8], sent: &mut bool) -> Result<Head, Lost> {
        if self.used.elapsed() > IDLE {
            self.stream = None;
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.target.addr).await),
        };
        *sent = true;
        stream.write_all(request).await.map_err(|_| Lost::Broken)?;
        let head = read(stream, &mut self.input).await;
        self.used = Instant::now();
        head
    }
}

/// Calls until somebody is there.
async fn connect(addr: SocketAddr) -> TcpStream {
    let mut pause = PAUSE;
    loop {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                stream.set_nodelay(true).ok(); // a request is one small packet
                return stream;
            }
            Err(_) => {
                // not all of them at the same moment
                sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Head, Lost> {
    input.clear();
    let mut known: Option<Head> = None;
    loop {
        input.reserve(1_024);
        match stream.read_buf(input).await {
            Ok(0) => return Err(Lost::Broken),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Lost::Broken),
        }
        if known.is_none() {
            known = parse(input)?;
        }
        // more than was asked for is not understood; what belongs to nobody would be the next one's answer
        match known.take_if(|head| input.len() >= head.body.end) {
            Some(head) if input.len() == head.body.end => return Ok(head),
            Some(_) => return Err(Lost::Garbled),
            None => {}
        }
    }
}

/// The head, once it is all there.
fn parse(input: &[u8]) -> Result<Option<Head>, Lost> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = answer.parse(input).map_err(|_| Lost::Garbled)? else { return Ok(None) };
    let status = answer.code.ok_or(Lost::Garbled)?;
    let (mut length, mut closes) = (matches!(status, 204 | 304).then_some(0), false);
    for header in answer.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let length = length.filter(|length| *length <= LARGEST).ok_or(Lost::Garbled)?;
    Ok(Some(Head { status, body: begin..begin + length, closes }))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each connection with the next of these words and hangs up where they end.
    async fn server(words: Vec<Vec<&'static str>>) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target =
            Target::of(&format!("http://{}", listener.local_addr().expect("bound"))).await.expect("an address");
        tokio::spawn(async move {
            for answers in words {
                let (mut stream, _) = listener.accept().await.expect("a call");
                for answer in answers {
                    let mut asked = [0; 1_024];
                    if stream.read(&mut asked).await.expect("a request") == 0 {
                        break;
                    }
                    for part in answer.split('|') {
                        stream.write_all(part.as_bytes()).await.expect("heard");
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            std::future::pending::<()>().await;
        });
        target
    }

    async fn ask(line: &mut Line) -> Result<(u16, String), Lost> {
        let request = line.target.request("POST", "/x", "", Some("{}"));
        let reply = line.ask(&request).await?;
        Ok((reply.status, String::from_utf8_lossy(reply.body).into_owned()))
    }

    #[tokio::test]
    async fn a_line_reads_what_comes_in_pieces_and_survives_what_breaks() {
        let target = server(vec![
            vec![
                "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello",
                "HTTP/1.1 2|04 No Content\r\n|\r\n",
                "HTTP/1.1 200 OK\r\ncontent-LENGTH: 6\r\nConnection: close\r\n\r\nab|cd|ef",
            ],
            vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"],
            vec!["SSH-2.0-x\r\n\r\n"],
            vec!["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na surplus"],
            vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
        ])
        .await;
        let mut line = Line::new(target, Duration::from_secs(30));
        assert_eq!(ask(&mut line).await, Ok((201, "hello".to_owned())));
        assert_eq!(ask(&mut line).await, Ok((204, String::new())));
        assert_eq!(ask(&mut line).await, Ok((200, "abcdef".to_owned())));
        assert_eq!(ask(&mut line).await, Err(Lost::Broken));
        assert_eq!(ask(&mut line).await, Err(Lost::Garbled));
        assert_eq!(ask(&mut line).await, Err(Lost::Garbled));
        assert_eq!(ask(&mut line).await, Ok((200, "ok".to_owned())));
    }

    #[tokio::test]
    async fn a_line_tells_what_was_not_asked_from_what_was_not_answered() {
        let silent = server(vec![vec![""]]).await;
        let mut line = Line::new(silent, Duration::from_millis(200));
        assert_eq!(ask(&mut line).await, Err(Lost::TimedOut));
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let nobody = Target::of(&format!("http://{nobody}/")).await.expect("an address");
        assert_eq!(ask(&mut Line::new(nobody, Duration::from_millis(50))).await, Err(Lost::Unreached));
    }
}
