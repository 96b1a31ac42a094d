//! What speaks on a port, before anybody asks it in earnest: HTTP/1.1, TLS, HTTP/2 or nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::no_descriptor;

/// A record of TLS (RFC 8446, section 5.1) with an empty ClientHello: no handshake begins, an alert comes back.
const EMPTY_HELLO: &[u8] = &[22, 3, 1, 0, 4, 1, 0, 0, 0];
/// How HTTP/2 with prior knowledge begins (RFC 9113, section 3.4), and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What is read of an answer, in bytes: the head, and what a page about a wrong scheme says.
const READ: usize = 4 << 10;
/// How long the rest of an answer is waited for.
const REST: Duration = Duration::from_millis(200);

/// What speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1: the status that it answered.
    Http1(u16),
    /// HTTP/2 without an upgrade, as gRPC does.
    Http2,
    /// TLS.
    Tls,
    /// It accepts and says nothing.
    Nothing,
    /// It accepts and closes.
    Closes,
    /// Nobody accepts.
    Refused,
    /// Something else.
    Other,
    /// This program has no descriptor left.
    NoDescriptor,
}

/// Asks a port by an HTTP request, and where that is not understood by the first bytes of TLS and of HTTP/2.
pub async fn speaks(address: SocketAddr, request: &str, within: Duration) -> Speaks {
    let first = match exchange(address, request.as_bytes(), within).await {
        Ok(answer) => told_by(&answer),
        Err(error) if no_descriptor(&error) => return Speaks::NoDescriptor,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Speaks::Nothing,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Speaks::Refused,
        Err(_) => Speaks::Closes,
    };
    if !matches!(first, Speaks::Closes | Speaks::Nothing | Speaks::Other) {
        return first;
    }
    for (bytes, protocol) in [(EMPTY_HELLO, Speaks::Tls), (PREFACE, Speaks::Http2)] {
        let answer = exchange(address, bytes, within.min(Duration::from_secs(1))).await.unwrap_or_default();
        if told_by(&answer) == protocol {
            return protocol;
        }
    }
    first
}

async fn exchange(address: SocketAddr, bytes: &[u8], within: Duration) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        stream.read_buf(&mut answer).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut stream = tokio::time::timeout(within, asking)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    while answer.len() < READ && !answer.is_empty() {
        match tokio::time::timeout(REST, stream.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    Ok(answer)
}

fn told_by(answer: &[u8]) -> Speaks {
    match answer {
        [] => Speaks::Closes,
        [21, 3, ..] => Speaks::Tls,
        // SETTINGS or GOAWAY on stream 0 (RFC 9113, sections 6.5 and 6.8).
        [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Speaks::Http2,
        _ if answer.starts_with(b"HTTP/1.") => {
            let text = String::from_utf8_lossy(answer);
            let status = text.split(' ').nth(1).and_then(|status| status.get(..3)?.parse().ok()).unwrap_or(0);
            match status == 400 && text.contains("HTTPS") {
                true => Speaks::Tls,
                false => Speaks::Http1(status),
            }
        }
        _ => Speaks::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        let told = |bytes: &[u8]| told_by(bytes);
        assert_eq!(told(b"HTTP/1.1 404 Not Found\r\n\r\n"), Speaks::Http1(404));
        assert_eq!(
            told(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server."),
            Speaks::Tls
        );
        assert_eq!(told(b"HTTP/1.1 400 Bad Request\r\n\r\nno such host"), Speaks::Http1(400));
        assert_eq!(told(&[21, 3, 1, 0, 2, 2, 50]), Speaks::Tls);
        assert_eq!(told(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"), Speaks::Http2);
        assert_eq!(told(b"SSH-2.0-OpenSSH_9.6\r\n"), Speaks::Other);
        assert_eq!(told(b""), Speaks::Closes);
    }
}
