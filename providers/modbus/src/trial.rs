//! Trying a connection: connect, and read what the settings name, once.
//!
//! Of a source the first planned request of each unit is made. Of a sink one
//! granted field is read, which changes nothing; a device that does not let
//! itself be read there has answered all the same.

use std::collections::BTreeSet;

use millrace_provider::trial::Failed;
use millrace_settings::Settings as _;
use millrace_settings::modbus::{Scheme, SinkSettings, SourceSettings};

use crate::client::{Client, Failure, Order, Timing, client};
use crate::plan::{self, Item, Request, plan};
use crate::reading::Decoder;
use crate::transport::Transport;

/// Tries a source's device.
pub(crate) async fn source(settings: &SourceSettings) -> Result<String, Failed> {
    settings.check()?;
    let mut items = Vec::with_capacity(settings.fields.len());
    let mut names = Vec::with_capacity(settings.fields.len());
    for (name, field) in &settings.fields {
        let wire = field.wire(settings.base)?;
        let unit = u8::try_from(field.unit.get()).unwrap_or(u8::MAX);
        items.push(Item { unit, wire, count: Decoder::of(field, wire).count() });
        names.push(name.as_str());
    }
    let timing = Timing::of_source(settings);
    let shared = client(&Transport::of_source(settings));
    let mut client = shared.lock().await;
    connect(&mut client, &timing, settings.url.scheme()).await?;
    let mut units = BTreeSet::new();
    for request in plan(&items, plan::Limits::from(settings)) {
        if !units.insert(request.unit) {
            continue;
        }
        if let Err(failure) = read(&mut client, &request, &timing).await {
            let name = |place: usize| names.get(place).copied().unwrap_or_default();
            return Err(wrong(&request.describe(name), &failure));
        }
    }
    client.close();
    let units = units.len();
    Ok(if units == 1 {
        "the device answers a read".to_owned()
    } else {
        format!("all {units} units answer a read")
    })
}

/// Tries a sink's device.
pub(crate) async fn sink(settings: &SinkSettings) -> Result<String, Failed> {
    settings.check()?;
    let timing = Timing::of_sink(settings);
    let shared = client(&Transport::of_sink(settings));
    let mut client = shared.lock().await;
    connect(&mut client, &timing, settings.url.scheme()).await?;
    let Some((name, field)) = settings.fields.iter().next() else {
        return Ok("connected".to_owned());
    };
    let wire = field.wire(settings.base)?;
    let unit = u8::try_from(field.unit.get()).unwrap_or(u8::MAX);
    let request = Request { unit, wire, count: 1, fields: vec![0] };
    let read = read(&mut client, &request, &timing).await;
    client.close();
    match read {
        Ok(()) => Ok("the device answers a read".to_owned()),
        Err(failure) if !failure.is_silence() => Ok(format!(
            "the device answers; {name} cannot be read ({failure}), which a sink does not need"
        )),
        Err(failure) => Err(wrong(&request.describe(|_| name.as_str()), &failure)),
    }
}

async fn connect(client: &mut Client, timing: &Timing, scheme: Scheme) -> Result<(), Failed> {
    client.connect(timing).await.map_err(|error| {
        let error = error.to_string();
        if scheme == Scheme::Rtu {
            let mend = "look at the path in `url`, at this user's right to open it, and whether somebody else has the line \
                        open: one program can, also a pipeline that runs";
            return Failed::new(error, mend);
        }
        Failed::to_reach(error, "url")
    })
}

async fn read(client: &mut Client, request: &Request, timing: &Timing) -> Result<(), Failure> {
    let order = Order::Read(request.wire.register, request.wire.address, request.count);
    client.ask(request.unit, &order, timing).await.map(drop)
}

fn wrong(request: &str, failure: &Failure) -> Failed {
    let mend = match failure {
        Failure::Exception(2) => {
            "mend the field's `address` (and `base`): the device has nothing there"
        }
        Failure::Exception(1) => "mend the field's `register`: the device has no such table",
        Failure::Exception(10 | 11) => {
            "mend the field's `unit`: the gateway reaches no such device"
        }
        Failure::Timeout(_) => "mend the field's `unit`, the line's settings, or `timeout`",
        Failure::Malformed(_) => {
            "look whether it is a Modbus device, and whether `url` names the right protocol"
        }
        _ => "look at the device",
    };
    Failed::new(format!("{request}: {failure}"), mend)
}
