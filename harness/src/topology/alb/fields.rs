//! What a node changes in the heads that it passes on.

use std::net::SocketAddr;

use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri, Version};

/// Fields that are for one connection, beside those that `Connection` names, [RFC 9110, 7.6.1].
///
/// [RFC 9110, 7.6.1]: https://www.rfc-editor.org/rfc/rfc9110.html#section-7.6.1
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Takes away what is for one connection only.
pub fn strip(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        fields.remove(name);
    }
    for name in HOP_BY_HOP {
        fields.remove(name);
    }
}

/// Makes the request of a client one of the node: its target without scheme and host, its version, and who has asked,
/// in the three fields [that AWS documents]. `X-Forwarded-For` is appended to.
///
/// [that AWS documents]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html
pub fn forward<B>(request: &mut Request<B>, client: SocketAddr, node: SocketAddr) {
    strip(request.headers_mut());
    let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(path) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    if let Some(host) = host.or_else(|| HeaderValue::from_str(&node.to_string()).ok()) {
        fields.entry(HOST).or_insert(host);
    }
    let before = fields.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let path: Vec<String> = before.map(str::to_owned).chain([client.ip().to_string()]).collect();
    let said = [("x-forwarded-for", path.join(", ")), ("x-forwarded-port", node.port().to_string())];
    for (name, value) in said {
        if let Ok(value) = HeaderValue::from_str(&value) {
            fields.insert(name, value);
        }
    }
    fields.insert("x-forwarded-proto", HeaderValue::from_static("http"));
}
