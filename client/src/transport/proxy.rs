//! The way through an HTTP proxy: `CONNECT`, and the TLS of the consortium inside.
//!
//! A proxy that only passes bytes on sees the server's name and nothing else. One that opens TLS shows a certificate of its
//! own, which no site accepts.

use std::fmt;
use std::io;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service as _, service_fn};

/// An HTTP proxy on the way to the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    address: Uri,
    /// The `Proxy-Authorization` header.
    credentials: Option<HeaderValue>,
}

/// A text that names no HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} names no HTTP proxy; write for example \"http://proxy.example.org:3128\"")]
pub struct InvalidProxy(String);

impl Proxy {
    /// The proxy for `server` (`host:port`): `configured` (its address, and `user:password` if it wants that), else that
    /// of the environment (`HTTPS_PROXY`). Nothing where neither is set, or `NO_PROXY` names the server.
    ///
    /// # Errors
    /// [`InvalidProxy`]; it shows no credentials.
    pub fn for_server(
        server: &str,
        configured: Option<(&str, Option<&str>)>,
    ) -> Result<Option<Self>, InvalidProxy> {
        let matcher = match configured {
            None => Matcher::from_env(),
            Some((address, credentials)) => {
                let shown = || InvalidProxy(format!("{address:?}"));
                let uri: Uri = address.parse().map_err(|_| shown())?;
                if uri.scheme_str() != Some("http") || uri.host().is_none() {
                    return Err(shown());
                }
                let no_proxy = ["NO_PROXY", "no_proxy"]
                    .iter()
                    .find_map(|name| std::env::var(name).ok());
                let address = match credentials {
                    Some(credentials) => with_credentials(address, credentials),
                    None => address.to_owned(),
                };
                let builder = Matcher::builder().https(address);
                builder.no(no_proxy.unwrap_or_default()).build()
            }
        };
        let server = format!("https://{server}");
        let server: Uri = server.parse().map_err(|_| InvalidProxy(server.clone()))?;
        let Some(way) = matcher.intercept(&server) else {
            return Ok(None);
        };
        if way.uri().scheme_str() != Some("http") {
            return Err(InvalidProxy("the proxy of the environment".into()));
        }
        Ok(Some(Self {
            address: way.uri().clone(),
            credentials: way.basic_auth().cloned(),
        }))
    }

    /// Where the proxy itself is.
    #[must_use]
    pub fn host_and_port(&self) -> String {
        let host = self.address.host().unwrap_or_default();
        format!("{host}:{}", self.address.port_u16().unwrap_or(DEFAULT_PORT))
    }

    /// A connection to `server` (`host:port`) through the proxy.
    ///
    /// # Errors
    /// What the proxy or the way to it says. A proxy that wants credentials, or others, answers
    /// [`io::ErrorKind::PermissionDenied`].
    pub(super) async fn connect(&self, server: &str) -> io::Result<TcpStream> {
        let server: Uri = format!("https://{server}")
            .parse()
            .map_err(io::Error::other)?;
        let open = service_fn(|proxy: Uri| async move {
            let host = proxy.host().unwrap_or_default().to_owned();
            let port = proxy.port_u16().unwrap_or(DEFAULT_PORT);
            let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
            Ok::<_, io::Error>(TokioIo::new(tcp))
        });
        let mut tunnel = Tunnel::new(self.address.clone(), open);
        if let Some(credentials) = &self.credentials {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        match tunnel.call(server).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => {
                let words = words(&error);
                // hyper-util keeps its kinds of failure to itself.
                let kind = if words.contains("authorization required") {
                    io::ErrorKind::PermissionDenied
                } else {
                    io::ErrorKind::NotConnected
                };
                let message = format!("through the proxy at {}: {words}", self.address);
                Err(io::Error::new(kind, message))
            }
        }
    }
}

/// Without the credentials.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// `http://user:password@host:port`, percent-encoded as a URI wants it.
fn with_credentials(address: &str, credentials: &str) -> String {
    let encoded = |text: &str| -> String {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        text.bytes()
            .map(|byte| match plain(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let rest = address.trim_start_matches("http://");
    format!("http://{}:{}@{rest}", encoded(user), encoded(password))
}

/// An error and its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

const DEFAULT_PORT: u16 = 80;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that gives one answer, and hands back the request and what was sent through it.
    async fn answering(
        answer: &'static str,
    ) -> (String, tokio::task::JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(answer.as_bytes()).await.unwrap();
            let mut sent = String::new();
            let _ = tcp.read_to_string(&mut sent).await;
            (String::from_utf8(request).unwrap(), sent)
        });
        (address, served)
    }

    async fn through(
        answer: &'static str,
        credentials: Option<&str>,
    ) -> (io::Result<()>, (String, String)) {
        let (address, served) = answering(answer).await;
        let proxy = Proxy::for_server("fl.example.org:7443", Some((&address, credentials)));
        let proxy = proxy.unwrap().unwrap();
        assert!(!format!("{proxy:?}{proxy}").contains("pass"), "{proxy:?}");
        let ended = match proxy.connect("fl.example.org:7443").await {
            Ok(mut tcp) => tcp.write_all(b"hello").await,
            Err(error) => Err(error),
        };
        (ended, served.await.unwrap())
    }

    #[tokio::test]
    async fn bytes_go_through_a_proxy_with_and_without_credentials() {
        let good = "HTTP/1.1 200 Connection established\r\n\r\n";
        let (ended, (request, sent)) = through(good, None).await;
        ended.unwrap();
        assert!(
            request.starts_with("CONNECT fl.example.org:7443 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(!request.to_lowercase().contains("proxy-authorization"));
        assert_eq!(sent, "hello");
        let (ended, (request, _)) = through(good, Some("clinic:p@ss:word/%")).await;
        ended.unwrap();
        // base64 of clinic:p@ss:word/%
        let header = "proxy-authorization: basic y2xpbmljonbac3m6d29yzc8l";
        assert!(request.to_lowercase().contains(header), "{request}");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_told_from_one_that_wants_credentials() {
        let (ended, _) = through("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", None).await;
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        let (ended, _) = through("HTTP/1.1 403 Forbidden\r\n\r\n", None).await;
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
        assert!(
            error
                .to_string()
                .contains("through the proxy at http://127.0.0.1:"),
            "{error}"
        );
    }

    #[test]
    fn what_names_no_http_proxy_is_refused_without_showing_credentials() {
        for bad in [
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy",
            "http://",
            "",
        ] {
            let error = Proxy::for_server("a:1", Some((bad, Some("user:secret")))).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
