//! The checks, one file a group, and the table of them.

mod acknowledge;
mod connect;
mod drain;
mod login;
mod pressure;
mod reconnect;
mod settings;
mod telemetry;
mod tls;

use anyhow::{Context, Result, bail};

use crate::peer::{Abilities, Ability, Outside, Peer};

/// One check, and the sentence of the contract that it proves.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// The sentence.
    pub sentence: &'static str,
    needs: &'static [Need],
}

/// What a connector must have for a check to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Source,
    Sink,
    Log,
    State,
    Headers,
    Large,
    Tls,
    MutualTls,
    Login,
    Impossible,
    Leaves,
}

impl Check {
    /// Why a connector with these abilities is not checked.
    #[must_use]
    pub fn skipped(&self, abilities: &Abilities) -> Option<&'static str> {
        self.needs.iter().find_map(|need| {
            let ability = match (need, abilities.outside) {
                (Need::Source, _) => abilities.source,
                (Need::Sink, _) => abilities.sink,
                (Need::Log, Outside::State { .. }) => {
                    return Some("outside is a state: it cannot be asked again");
                }
                (Need::State, Outside::Log) => {
                    return Some("outside is a log: nothing is sampled");
                }
                (Need::Log | Need::State, _) => Ability::Yes,
                (Need::Headers, _) => abilities.headers,
                (Need::Large, _) => abilities.large,
                (Need::Tls, _) => abilities.tls,
                (Need::MutualTls, _) => abilities.mutual_tls,
                (Need::Login, _) => abilities.login,
                (Need::Impossible, _) => abilities.impossible,
                (Need::Leaves, _) => abilities.leaves,
            };
            match ability {
                Ability::Yes => None,
                Ability::No(reason) => Some(reason),
            }
        })
    }
}

macro_rules! checks {
    ($($group:ident $name:ident [$($need:ident),*] $sentence:literal;)*) => {
        /// Every check, in the order of the contract.
        pub const CHECKS: &[Check] = &[$(
            Check { name: stringify!($name), sentence: $sentence, needs: &[$(Need::$need),*] },
        )*];

        /// Runs one check in a clean place.
        pub(crate) async fn run<P: Peer>(check: &Check, peer: &mut P) -> Result<()> {
            peer.fresh().await.context("a clean place")?;
            match check.name {
                $(stringify!($name) => Box::pin($group::$name(peer)).await,)*
                other => bail!("no check is called {other}"),
            }
        }
    };
}

// The sentences are those of docs/connectors/contract.md: a test compares them.
checks! {
    connect source_connects [Source]
        "A source that reaches its peer says `connected`, and hands on what is there.";
    connect sink_connects [Sink]
        "A sink that reaches its peer says `connected`, and writes what it is given.";
    connect source_waits_for_its_peer [Source, Leaves]
        "A source whose peer is not there says `retrying`, with the address and the reason, counts an error of kind `connection`, and connects when the peer is there, without being started again.";
    connect sink_waits_for_its_peer [Sink, Leaves]
        "A sink whose peer is not there does the same.";
    connect write_answers_while_away [Sink, Leaves]
        "A sink's `write` answers within 5 s, with an error, while the peer is away.";

    acknowledge holds_until_safe [Source, Log]
        "A message is not acknowledged upstream before the stage has answered: after a crash it comes again.";
    acknowledge acknowledges_when_safe [Source, Log]
        "A message that is safe is acknowledged, and does not come again.";
    acknowledge repeats_failed_calls [Source]
        "A call that the stage fails is made again until it succeeds; nothing is acknowledged before.";
    acknowledge ok_means_written [Sink]
        "A `write` that answers ok has written every message: a crash right after it loses nothing.";
    acknowledge buries_the_impossible [Sink, Impossible]
        "A message that can never be written goes to the dead letters as it is, and the rest of its batch is written.";

    reconnect source_reconnects [Source, Leaves]
        "A source that loses its peer says `retrying`, connects when the peer is back, counts a reconnect, and goes on.";
    reconnect source_loses_nothing [Source, Log, Leaves]
        "A source that loses its peer with messages in its hands loses none of them.";
    reconnect sink_loses_nothing [Sink, Leaves]
        "A sink that loses its peer while it writes loses nothing: the write fails, and succeeds when it is made again.";
    reconnect source_backs_off [Source, Leaves]
        "A source that cannot connect tries again after pauses that grow, and two sources do not try in step.";
    reconnect sink_backs_off [Sink, Leaves]
        "A sink that cannot connect tries again after pauses that grow, and two sinks do not try in step.";

    pressure holds_back [Source, Log]
        "A source whose stage is stuck takes no more than its window, and everything when the stage goes on.";
    pressure holds_back_large [Source, Log, Large]
        "The window counts bytes too: with large messages a source takes no more of them than its byte limit.";
    pressure samples_are_bounded [Source, State]
        "A source that samples takes no more than its window while its stage is stuck, and has the present state when the stage goes on.";
    pressure writes_large_batches [Sink, Log]
        "A sink writes batches larger than its own window.";

    tls tls_carries [Tls]
        "With TLS messages are carried as without.";
    tls tls_refuses_untrusted [Tls]
        "A certificate of an unknown authority is refused: the link says `retrying` and names the certificate, and no message is carried.";
    tls tls_refuses_expired [Tls]
        "An expired certificate is refused in the same way.";
    tls tls_refuses_wrong_name [Tls]
        "A certificate for another name is refused in the same way.";
    tls tls_refuses_plain [Tls]
        "A peer that does not speak TLS is refused: nothing is ever carried in clear when TLS was asked for.";
    tls tls_takes_a_renewed_certificate [Tls]
        "When the certificate is renewed the link connects, without being started again.";
    tls tls_shows_its_own_certificate [MutualTls]
        "With a client certificate the peer lets it in; without one the link says `retrying`.";

    login login_lets_in [Login]
        "With the right password messages are carried.";
    login login_is_read_at_each_connect [Login]
        "A missing password file or a wrong password is said in the status; when the file is right the link connects, without being started again.";
    login no_secret_is_shown [Login]
        "No password is in a status, an error or a log line of any level.";

    drain source_drains [Source]
        "A drained source takes nothing more, waits for what it has handed on, acknowledges it, and returns.";
    drain source_leaves [Source]
        "A source that is told to leave returns within 5 s, also while its stage is stuck; what was not safe comes again.";
    drain source_drains_while_away [Source, Leaves]
        "A source that is drained while its peer is away returns within 10 s.";
    drain sink_closes [Sink]
        "A sink that is closed has written what it said ok to, and returns within 10 s.";
    drain sink_closes_while_away [Sink, Leaves]
        "A sink that is closed while its peer is away returns within 10 s.";

    telemetry source_counts [Source]
        "A source counts messages and bytes in and out, batches, what is in flight, and the time to the acknowledgement.";
    telemetry sink_counts [Sink]
        "A sink counts the same.";
    telemetry errors_are_counted [Source]
        "Errors are counted by kind, and the last one is kept with its text and time.";
    telemetry batches_carry_a_trace [Source]
        "Every batch of a source has an `id`, an `attempt` and a W3C `traceparent`, which is also given beside the call.";
    telemetry source_carries_headers [Source, Headers]
        "Headers from outside are the message's headers, `traceparent` and `tracestate` among them.";
    telemetry sink_carries_headers [Sink, Headers]
        "Headers of a message are carried outside, `traceparent` and `tracestate` among them.";

    settings settings_are_named []
        "A wrong value of any setting is refused with an error that names the setting, when the pipeline is linted and when the connector is made.";
    settings settings_are_located []
        "Lint says file and line of a wrong value, and names the setting.";
    settings settings_are_complete []
        "A missing and an unknown setting are named, each setting has a description, and every default is right.";
    settings documentation_lints []
        "The connector has a page, and the pipelines on it have no findings.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_has_the_sentences_of_the_suite() {
        let page = include_str!("../../../../docs/connectors/contract.md");
        let mut words = String::new();
        for word in page.split_whitespace() {
            words.push_str(word);
            words.push(' ');
        }
        let mut rest = words.as_str();
        for (place, check) in CHECKS.iter().enumerate() {
            let wanted = format!("{}. {} (`{}`) ", place + 1, check.sentence, check.name);
            let at = rest.find(&wanted).unwrap_or_else(|| panic!("not in the contract: {wanted}"));
            rest = &rest[at..];
        }
        let numbered = page.lines().filter(|line| {
            line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
        });
        assert_eq!(numbered.count(), CHECKS.len(), "a sentence has no check");
    }
}
