//! What is expected of a response.

use hyper::Response;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

/// The response that is due, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its status.
    pub status: Option<u16>,
    /// The length of its body.
    pub bytes: Option<u64>,
    /// Whether its body is that of the request.
    pub echo: bool,
    /// Whether a body that is cut looks like a whole one: its end is that of the connection, and its length not known.
    pub cut_hidden: bool,
}

/// How the end of a body is told (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length,
    /// By its last chunk.
    Chunked,
    /// By the end of the connection: a body that was cut looks like a whole one.
    UntilEnd,
}

impl Framing {
    /// That of a response.
    pub(super) fn of(response: &Response<Incoming>) -> Self {
        let headers = response.headers();
        if headers.contains_key(TRANSFER_ENCODING) {
            Self::Chunked
        } else if headers.contains_key(CONTENT_LENGTH) || response.body().is_end_stream() {
            Self::Length
        } else {
            Self::UntilEnd
        }
    }
}

/// Two bodies of one digest, in one run, are the same.
pub(super) fn digest(body: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, body);
    std::hash::Hasher::finish(&hasher)
}
