//! What was learnt, in words.

use std::collections::BTreeSet;

use super::Learned;
use super::learn::Known;
use crate::client::Framing;

pub(super) fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    match ports.as_slice() {
        [] => "no other port".to_owned(),
        [one] => format!("port {one}"),
        several => format!("ports {}", several.join(", ")),
    }
}

impl Learned {
    /// What was learnt, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let port = match self.own_port {
            true => "as it was told",
            false => "found: it takes neither {port} nor PORT; with --port nobody has to wait for that",
        };
        let mut words = vec![format!("port {} ({port})", self.port)];
        if !self.other_ports.is_empty() {
            words.push(format!("it listens on {} as well: not tested", list(&self.other_ports)));
        }
        words.push(format!("its start takes {:.1?}", self.start));
        words.push(match &self.alone {
            Some(why) => format!("one is started at a time: {why}"),
            None => "two of it can live side by side".to_owned(),
        });
        words.push(described(&self.quick));
        for known in [&self.slow, &self.finite, &self.upload].into_iter().flatten() {
            if known.0.path != self.quick.0.path || known.0.method != self.quick.0.method {
                words.push(described(known));
            }
        }
        words.extend(self.endless.as_ref().map(|route| format!("{} {} has no end", route.method, route.path)));
        words.push(match self.keep_alive {
            true => "it keeps connections open".to_owned(),
            false => "it closes the connection after each response".to_owned(),
        });
        words.extend(self.lame_duck.words(self.ready.as_deref()));
        words.extend(self.identity.words());
        words
    }

    /// What a user should know before the verdicts, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.identity.diagnoses.iter().map(ToString::to_string).collect();
        let (route, normal) = &self.quick;
        if let Some(status) = normal.due.status.filter(|status| *status >= 400) {
            notes.push(format!(
                "{} is answered {status}: connections and signals are tested all the same; name a path that is served \
                 with --path{}",
                route.path,
                match status {
                    400 | 421 => ", or the host that it wants with --host",
                    401 | 403 => ", or give credentials with -H",
                    _ => "",
                }
            ));
        }
        if normal.due.status.is_none() {
            notes.push(format!("{} is answered now this, now that, while nobody stops the server", route.path));
        }
        let peace = &self.peace;
        if let Some(after) = peace.limited_after {
            notes.push(match peace.rate {
                Some(rate) => format!(
                    "a rate limiter answers 429 after {after} requests: the load is slowed to {rate:.0} requests a second"
                ),
                None => format!("a rate limiter answers 429 after {after} requests: it can be put under little load"),
            });
        }
        if peace.loses() > 0.0 {
            notes.push(format!(
                "of {} requests it lost {} while nobody stopped it, and answered {} with another status: what it \
                 loses under load is not blamed on the signal",
                peace.asked, peace.lost, peace.other
            ));
        }
        notes
    }
}

fn described((route, normal): &Known) -> String {
    let status = normal.due.status.map_or(String::new(), |status| format!("{status} "));
    let length = match normal.due.bytes {
        Some(bytes) => format!("the same {bytes} bytes"),
        None => "a body that changes".to_owned(),
    };
    let framing = match normal.framing {
        Framing::Length => "",
        Framing::Chunked => ", chunked",
        Framing::UntilEnd => ", which end with the connection",
    };
    format!("{} {} is answered {status}with {length}{framing} in {:.1?}", route.method, route.path, normal.takes)
}
