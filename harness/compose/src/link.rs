//! The chain: intake, a drive and its step for each position, outlet. Linked from its end, because each part is given the
//! next one.

use std::collections::{BTreeMap, BTreeSet};

use wac_graph::types::{Package, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

use crate::artifact::{Part, digest};
use crate::error::{ComposeError, StepError};
use crate::harness::{self, Guest};
use crate::inspect::{inspect_component, inspect_stage};
use crate::kind::Kind;
use crate::policy::{Decision, decide_for};
use crate::{Customer, Grant, Prepared, memory};

const FLOW: &str = "millrace:stage/flow@0.1.0";
const REJECTS: &str = "millrace:stage/rejects@0.1.0";
const STATES: &str = "millrace:stage/states@0.1.0";
const KEY_VALUE: &str = "millrace:step/key-value@0.1.0";
const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";

/// What the harness itself imports.
const HARNESS_IMPORTS: [&str; 4] = [
    "wasmcloud:messaging/types@0.2.0",
    "wasmcloud:messaging/consumer@0.2.0",
    "wasi:config/store@0.2.0-draft",
    "wasi:logging/logging@0.1.0-draft",
];

/// Most memory of the part that asks for what lies outside, in bytes: for the values of one call, their copies and a request.
const OUTSIDE_MEMORY: u64 = 96 * 1024 * 1024;

/// Types that harness and steps share: without functions.
const STEP_TYPES: &str = "millrace:step/types@0.1.0";

/// What `deny-clocks` takes from the host: its own name for it, and the host's.
const CLOCKS: [(&str, &str); 2] = [
    ("millrace:deny/host-monotonic-clock@0.1.0", "wasi:clocks/monotonic-clock@0.2.0"),
    ("millrace:deny/host-wall-clock@0.1.0", "wasi:clocks/wall-clock@0.2.0"),
];

/// A linked stage, without metadata.
pub(crate) struct Linked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) parts: Vec<Part>,
}

/// Links the steps with the harness, and checks what came out.
pub(crate) fn link(steps: &[Prepared]) -> Result<Linked, ComposeError> {
    let mut chain = Chain::default();
    let handler = match steps {
        [Prepared { kind: Kind::Monolithic, customer: Some(customer), .. }] => {
            let [step] = steps else { return Err(ComposeError::Link("no step".to_owned())) };
            let instance = chain.customer(step, customer)?;
            let export = customer.info.export(HANDLER).unwrap_or(HANDLER);
            chain.export(instance, export)?
        }
        _ => chained(&mut chain, steps)?,
    };
    chain.graph.export(handler, HANDLER).map_err(defect)?;

    let bytes = chain.graph.encode(EncodeOptions::default()).map_err(defect)?;
    confined(&bytes, steps)?;
    Ok(Linked { bytes, parts: chain.parts.into_values().collect() })
}

/// The steps between intake and outlet: the handler of the intake.
fn chained(chain: &mut Chain, steps: &[Prepared]) -> Result<NodeId, ComposeError> {
    let outlet = chain.instance(harness::OUTLET)?;
    let rejects = chain.export(outlet, REJECTS)?;
    let mut next = chain.export(outlet, FLOW)?;
    for step in steps.iter().rev() {
        let drive = chain.drive(step)?;
        chain.pass(drive, FLOW, next)?;
        if step.kind != Kind::Concatenate {
            chain.pass(drive, REJECTS, rejects)?;
        }
        if step.kind.has_state() {
            let states = chain.export(outlet, STATES)?;
            chain.pass(drive, STATES, states)?;
        }
        next = chain.export(drive, FLOW)?;
    }
    let intake = chain.instance(harness::INTAKE)?;
    chain.pass(intake, FLOW, next)?;
    chain.export(intake, HANDLER)
}

/// The graph, and the packages in it: each distinct component is stored once, however often it is instantiated.
#[derive(Default)]
struct Chain {
    graph: CompositionGraph,
    packages: BTreeMap<String, PackageId>,
    parts: BTreeMap<String, Part>,
    /// Imports of the host's clocks, shared by all steps that are granted them.
    clocks: BTreeMap<&'static str, NodeId>,
}

impl Chain {
    /// A customer's step with its drive in front: the drive.
    fn drive(&mut self, step: &Prepared) -> Result<NodeId, ComposeError> {
        let drive = harness::drive(step.kind)
            .ok_or_else(|| ComposeError::Link(format!("a {} is not driven", step.kind)))?;
        let drive = self.instance(drive)?;
        if step.kind == Kind::Enrich {
            let outside = self.outside(step)?;
            let values = self.export(outside, KEY_VALUE)?;
            self.pass(drive, KEY_VALUE, values)?;
        }
        let Some(customer) = &step.customer else { return Ok(drive) };
        let instance = self.customer(step, customer)?;
        let needed = customer.interface;
        let export = customer.info.export(needed).unwrap_or(needed);
        let interface = self.export(instance, export)?;
        self.graph.set_instantiation_argument(drive, needed, interface).map_err(|error| {
            wrong(
                step,
                StepError::WrongShape { interface: needed.to_owned(), detail: chain_of(&error) },
            )
        })?;
        Ok(drive)
    }

    fn customer(&mut self, step: &Prepared, given: &Customer) -> Result<NodeId, ComposeError> {
        let package = self.package(&format!("step-{}", digest(&given.bytes)), &given.bytes);
        let package = package.map_err(|detail| {
            let interface = given.interface.to_owned();
            wrong(step, StepError::WrongShape { interface, detail })
        })?;
        let customer = self.graph.instantiate(package);
        let (mut denied, mut asked) = (Vec::new(), Vec::new());
        for import in &given.info.imports {
            match decide_for(step.kind, import, &step.grants).map_err(|error| wrong(step, error))? {
                Decision::Deny => denied.push(import),
                Decision::Ask => asked.push(import),
                Decision::Types | Decision::Open => {}
            }
        }
        if !denied.is_empty() {
            self.deny(step, customer, &denied)?;
        }
        if !asked.is_empty() {
            let outside = self.outside(step)?;
            self.satisfy(step, customer, &asked, outside, harness::OUTSIDE)?;
        }
        Ok(customer)
    }

    /// The part that asks for what lies outside in the name of this step: of its own, for no step may speak for another.
    fn outside(&mut self, step: &Prepared) -> Result<NodeId, ComposeError> {
        let bytes = harness::outside(&step.name).ok_or_else(|| {
            ComposeError::Link(format!("the name `{}` cannot be written into a stage", step.name))
        })?;
        // It holds what the customer asks for, so it is bounded as the customer is.
        let bytes = memory::limit(&bytes, OUTSIDE_MEMORY).map_err(|error| wrong(step, error))?;
        let package =
            self.package(&format!("outside-{}", step.name), &bytes).map_err(ComposeError::Link)?;
        Ok(self.graph.instantiate(package))
    }

    /// Satisfies imports from a deny component of this step's own: steps share no instance.
    fn deny(
        &mut self,
        step: &Prepared,
        customer: NodeId,
        imports: &[&String],
    ) -> Result<(), ComposeError> {
        let clocks = step.grants.contains(&Grant::Clocks);
        let guest = if clocks { harness::DENY_CLOCKS } else { harness::DENY };
        let deny = self.instance(guest)?;
        if clocks {
            self.clocks(deny)?;
        }
        self.satisfy(step, customer, imports, deny, guest)
    }

    /// Satisfies imports of a customer from an instance of a part of the harness.
    fn satisfy(
        &mut self,
        step: &Prepared,
        customer: NodeId,
        imports: &[&String],
        instance: NodeId,
        guest: Guest,
    ) -> Result<(), ComposeError> {
        let offered = inspect_component(guest.bytes).map_err(defect)?.exports;
        for import in imports {
            let refused = || wrong(step, StepError::Refused { import: (*import).clone() });
            let name = offered
                .iter()
                .find(|name| are_semver_compatible(name, import))
                .ok_or_else(refused)?;
            let interface = self.export(instance, name)?;
            self.graph.set_instantiation_argument(customer, import, interface).map_err(
                |error| {
                    wrong(
                        step,
                        StepError::WrongShape {
                            interface: (*import).clone(),
                            detail: chain_of(&error),
                        },
                    )
                },
            )?;
        }
        Ok(())
    }

    /// Gives a deny component the host's clocks.
    fn clocks(&mut self, deny: NodeId) -> Result<(), ComposeError> {
        for (own, host) in CLOCKS {
            let import = match self.clocks.get(host) {
                Some(import) => *import,
                None => {
                    let kind = self
                        .graph
                        .imports()
                        .find(|(name, ..)| *name == own)
                        .map(|(_, kind, _)| kind);
                    let kind = kind.ok_or_else(|| {
                        ComposeError::Link(format!("deny-clocks does not import `{own}`"))
                    })?;
                    let import = self.graph.import(host, kind).map_err(defect)?;
                    self.clocks.insert(host, import);
                    import
                }
            };
            self.pass(deny, own, import)?;
        }
        Ok(())
    }

    fn instance(&mut self, guest: Guest) -> Result<NodeId, ComposeError> {
        let package = self.package(guest.name, guest.bytes).map_err(ComposeError::Link)?;
        Ok(self.graph.instantiate(package))
    }

    fn package(&mut self, name: &str, bytes: &[u8]) -> Result<PackageId, String> {
        if let Some(package) = self.packages.get(name) {
            return Ok(*package);
        }
        let full_name = format!("millrace:{name}");
        let package = Package::from_bytes(&full_name, None, bytes, self.graph.types_mut())
            .map_err(|error| format!("{error:#}"))?;
        let id = self.graph.register_package(package).map_err(|error| chain_of(&error))?;
        self.packages.insert(name.to_owned(), id);
        self.parts.insert(name.to_owned(), Part { name: name.to_owned(), digest: digest(bytes) });
        Ok(id)
    }

    fn export(&mut self, instance: NodeId, name: &str) -> Result<NodeId, ComposeError> {
        self.graph.alias_instance_export(instance, name).map_err(defect)
    }

    fn pass(&mut self, to: NodeId, name: &str, what: NodeId) -> Result<(), ComposeError> {
        self.graph.set_instantiation_argument(to, name, what).map_err(defect)
    }
}

/// The last look: the artifact is open to the host exactly where it may be.
fn confined(bytes: &[u8], steps: &[Prepared]) -> Result<(), ComposeError> {
    let info = inspect_stage(bytes).map_err(defect)?;
    let mut allowed: BTreeSet<&str> = HARNESS_IMPORTS.into_iter().collect();
    if !steps.is_empty() {
        allowed.insert(STEP_TYPES);
    }
    for step in steps {
        let Some(customer) = &step.customer else { continue };
        if step.grants.contains(&Grant::Clocks) {
            allowed.extend(CLOCKS.map(|(_, host)| host));
        }
        let open =
            |import: &&String| decide_for(step.kind, import, &step.grants) == Ok(Decision::Open);
        allowed.extend(customer.info.imports.iter().filter(open).map(String::as_str));
    }
    let is_allowed = |import: &str| allowed.iter().any(|name| are_semver_compatible(name, import));
    if let Some(import) = info.imports.iter().find(|import| !is_allowed(import)) {
        return Err(ComposeError::Escape(format!("would import `{import}`")));
    }
    // A stage that is one component need not import anything.
    let driven = steps.iter().all(|step| step.kind != Kind::Monolithic);
    let missing =
        HARNESS_IMPORTS.into_iter().find(|name| info.imports.iter().all(|import| import != name));
    if let (Some(name), true) = (missing, driven) {
        return Err(ComposeError::Escape(format!("lacks the import `{name}`")));
    }
    if info.exports != [HANDLER] {
        return Err(ComposeError::Escape(format!(
            "exports {} and not only `{HANDLER}`",
            info.exports.join(", ")
        )));
    }
    Ok(())
}

fn wrong(step: &Prepared, error: StepError) -> ComposeError {
    ComposeError::Step { step: step.name.clone(), error }
}

fn defect(error: impl std::error::Error) -> ComposeError {
    ComposeError::Link(chain_of(&error))
}

/// An error with its causes, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
