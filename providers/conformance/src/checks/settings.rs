//! Every setting linted, with file, line and field.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use millrace_kit::{DeadLetters, Direction, Limits, Link, LinkNames};
use millrace_pipeline::{Document, Finding, Options, load};
use millrace_settings::FieldError;
use millrace_settings::registry::{self, Kind};
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::peer::{Ability, Flat, Peer, Role};
use crate::stage::TestDeadLetters;

/// Values, one of which is wrong for every setting that is not free text.
const WRONG: [&str; 8] = ["", "perhaps", "-1", "99999999999999999999", "{", "[]", "\u{0}", "{}"];

pub(super) async fn settings_are_named<P: Peer>(peer: &mut P) -> Result<()> {
    for (role, kind) in halves(peer)? {
        let base = peer.config(role);
        let errors = (kind.check)(&base);
        ensure!(errors.is_empty(), "{role:?}: the peer's own configuration: {errors:?}");
        for field in (kind.fields)() {
            let wrong = wrong_value(&kind, &base, field);
            let free = peer.free_text(role).contains(field);
            match (&wrong, free) {
                (Some(_), false) => {}
                (None, true) => continue,
                (Some((value, _)), true) => {
                    bail!("{role:?}: {field} is declared free text, and {value:?} is refused")
                }
                (None, false) => bail!("{role:?}: no wrong value of {field} is refused"),
            }
            let Some((value, _)) = wrong else { continue };
            let mut config = base.clone();
            config.insert((*field).to_owned(), value.to_owned());
            match made(peer, role, &config) {
                Ok(()) => bail!("{role:?}: the connector is made with {field} {value:?}"),
                Err(error) => ensure!(
                    names(&error, field),
                    "{role:?}: {field} {value:?} is refused in the name of {error}"
                ),
            }
        }
    }
    Ok(())
}

pub(super) async fn settings_are_located<P: Peer>(peer: &mut P) -> Result<()> {
    for (role, kind) in halves(peer)? {
        let base = peer.config(role);
        let (text, _) = pipeline(peer, role, &base, None);
        let findings = lint(&text);
        ensure!(findings.is_empty(), "the peer's own configuration: {findings:?}\n{text}");
        for field in (kind.fields)() {
            let Some((value, _)) = wrong_value(&kind, &base, field) else { continue };
            let (text, line) = pipeline(peer, role, &base, Some((field, value)));
            let findings = lint(&text);
            let found = findings.iter().any(|finding| {
                let (path, message) = (&finding.path, &finding.message);
                finding.location.as_ref().is_some_and(|at| {
                    at.file == "conformance.yaml" && at.line <= line && line <= at.end_line
                }) && (path.contains(field) || message.contains(field))
            });
            ensure!(
                found,
                "{role:?}: no finding names {field} in line {line} of\n{text}\nbut {findings:#?}"
            );
        }
    }
    Ok(())
}

pub(super) async fn settings_are_complete<P: Peer>(peer: &mut P) -> Result<()> {
    for (role, kind) in halves(peer)? {
        let base = peer.config(role);
        let mut config = base.clone();
        config.insert("no-such-setting".to_owned(), "x".to_owned());
        let errors = (kind.check)(&config);
        ensure!(
            errors.iter().any(|error| error.field == "no-such-setting"),
            "{role:?}: an unknown setting is not named: {errors:?}"
        );
        let schema = schema(&kind)?;
        let required = schema.pointer("/required").and_then(Value::as_array).cloned();
        let required = required.unwrap_or_default();
        for field in required.iter().filter_map(Value::as_str) {
            let mut config = base.clone();
            config.remove(field);
            let errors = (kind.check)(&config);
            ensure!(
                errors.iter().any(|error| error.field == field),
                "{role:?}: that {field} is missing is not said: {errors:?}"
            );
        }
        for field in (kind.fields)() {
            let described = schema.pointer(&format!("/properties/{field}/description"));
            ensure!(
                described.is_some_and(Value::is_string),
                "{role:?}: {field} has no description"
            );
        }
        let complete = (kind.complete)(&base).context("the defaults")?;
        ensure!((kind.check)(&complete).is_empty(), "{role:?}: a default is wrong");
        made(peer, role, &complete).context("the connector with every default written out")?;
    }
    Ok(())
}

pub(super) async fn documentation_lints<P: Peer>(_: &mut P) -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/connectors")
        .join(format!("{}.md", P::CONNECTOR));
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let examples = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut pipelines = 0;
    for example in examples.filter(|example| example.starts_with("millrace:")) {
        pipelines += 1;
        let document = Document { file: "example.yaml", text: example };
        let loaded = load(document, None, &Options::default());
        ensure!(loaded.findings().is_empty(), "{}", loaded.render(false));
        if let Err(error) = loaded.plan() {
            bail!("the example cannot be planned: {error}");
        }
    }
    ensure!(pipelines > 0, "{} has no pipeline as an example", page.display());
    Ok(())
}

/// The halves that the connector has.
fn halves<P: Peer>(peer: &P) -> Result<Vec<(Role, Kind)>> {
    let connector = registry::connector(P::CONNECTOR)
        .with_context(|| format!("{} is not in the registry of settings", P::CONNECTOR))?;
    let abilities = peer.abilities();
    Ok([
        (Role::Source, Some(connector.source), abilities.source),
        (Role::Sink, connector.sink, abilities.sink),
    ]
    .into_iter()
    .filter(|(_, _, ability)| *ability == Ability::Yes)
    .filter_map(|(role, kind, _)| Some((role, kind?)))
    .collect())
}

/// A value of this field that is refused in its name.
fn wrong_value(kind: &Kind, base: &Flat, field: &str) -> Option<(&'static str, FieldError)> {
    WRONG.iter().find_map(|value| {
        let mut config = base.clone();
        config.insert(field.to_owned(), (*value).to_owned());
        let errors = (kind.check)(&config);
        errors.into_iter().find(|error| names(error, field)).map(|error| (*value, error))
    })
}

/// Whether the error is about this field or a part of it.
fn names(error: &FieldError, field: &str) -> bool {
    error.field == field
        || error.field.strip_prefix(field).is_some_and(|rest| rest.starts_with('.'))
}

/// Makes the connector, which connects to nothing before it is polled.
fn made<P: Peer>(peer: &P, role: Role, config: &Flat) -> Result<(), FieldError> {
    let names =
        LinkNames { pipeline: "conformance".into(), name: "in".into(), stage: "stage".into() };
    let direction = if role == Role::Source { Direction::Source } else { Direction::Sink };
    let link = Arc::new(Link::new(names, direction));
    match role {
        Role::Source => {
            let limits =
                Limits { messages: 1, bytes: 1_024, linger: std::time::Duration::from_millis(1) };
            peer.source(config, limits, &link).map(drop)
        }
        Role::Sink => {
            let dead: Arc<dyn DeadLetters> = Arc::new(TestDeadLetters::default());
            let made = peer.sink(config, &link, &dead);
            link.start_drain();
            made.map(drop)
        }
    }
}

/// A small pipeline with this configuration, and the line of `wrong` in it.
fn pipeline<P: Peer>(
    peer: &P,
    role: Role,
    base: &Flat,
    wrong: Option<(&str, &str)>,
) -> (String, usize) {
    let mut text = String::from(
        "millrace: v1alpha1\npipeline: conformance\nversion: 0.1.0\nsources: [in]\nsinks:\n  \
         out: { from: in }\nbinding:\n",
    );
    let mut line = 0;
    for (half, section, name) in [(Role::Source, "sources", "in"), (Role::Sink, "sinks", "out")] {
        let has = match half {
            Role::Source => peer.abilities().source,
            Role::Sink => peer.abilities().sink,
        };
        // The other half of a connector that has only one is any other.
        let (connector, mut config) = match (half == role, has) {
            (true, _) => (P::CONNECTOR, base.clone()),
            (false, Ability::Yes) => (P::CONNECTOR, peer.config(half)),
            (false, Ability::No(_)) => ("mqtt", other()),
        };
        let wrong = wrong.filter(|_| half == role);
        if let Some((field, value)) = wrong {
            config.insert(field.to_owned(), value.to_owned());
        }
        let _ = write!(text, "  {section}:\n    {name}:\n      {connector}:\n");
        for (field, value) in &config {
            if wrong.is_some_and(|(wrong, _)| wrong == field) {
                line = text.lines().count() + 1;
            }
            let _ = writeln!(text, "        {field}: {}", in_yaml(value));
        }
    }
    (text, line)
}

fn other() -> Flat {
    [("url", "mqtt://localhost"), ("topic", "conformance")]
        .map(|(field, value)| (field.to_owned(), value.to_owned()))
        .into()
}

/// A value as it is written in YAML: nested settings as they are in the flat
/// map, JSON, which YAML contains; everything else as a string.
fn in_yaml(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(Value::Object(_) | Value::Array(_)) => value.to_owned(),
        _ => Value::from(value).to_string(),
    }
}

fn lint(text: &str) -> Vec<Finding> {
    let document = Document { file: "conformance.yaml", text };
    load(document, None, &Options::default()).findings().to_vec()
}

fn schema(kind: &Kind) -> Result<Value> {
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = (kind.schema)(&mut generator).to_value();
    let name =
        root.pointer("/$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let name = name.context("a schema of its own")?;
    generator.definitions().get(name).cloned().context("the settings' schema")
}
