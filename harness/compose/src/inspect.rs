//! What a component is, without running it. Used before composing, and by lint and the command line.

use std::collections::BTreeSet;

use serde::Serialize;
use wac_graph::types::are_semver_compatible;
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, CustomSectionReader, Encoding, Instance, KnownCustom, Parser, Payload,
    Validator, WasmFeatures,
};

use crate::artifact::digest;
use crate::error::ComponentError;
use crate::kind::Kind;

/// Greatest size of a component, in bytes.
pub const MAX_COMPONENT_BYTES: usize = 64 * 1024 * 1024;

/// Most memories a component may have at run time. Ordinary ones have one.
const MAX_MEMORIES: usize = 16;

/// Most producers that are told.
const MAX_PRODUCERS: usize = 64;

/// What a component exports, imports and needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentInfo {
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
    /// Size in bytes.
    pub bytes: usize,
    /// Names of its imports, in order.
    pub imports: Vec<String>,
    /// Names of its exports, in order.
    pub exports: Vec<String>,
    /// Kinds of steps it can be.
    pub kinds: Vec<Kind>,
    /// The memories it has at run time.
    pub memories: Vec<MemoryInfo>,
    /// What it says it was made with: hearsay, for people.
    pub producers: Vec<Producer>,
}

/// What a component, or a module in it, was made with: an entry of a section `producers`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Producer {
    /// What it is: `language`, `processed-by` or `sdk`.
    pub field: String,
    /// Its name.
    pub name: String,
    /// Its version, which may be empty.
    pub version: String,
}

/// A memory. A page is 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryInfo {
    /// Pages at the start.
    pub minimum_pages: u64,
    /// Most pages, if the component says so itself.
    pub maximum_pages: Option<u64>,
}

impl ComponentInfo {
    /// The export that is this interface, in this or a compatible version.
    #[must_use]
    pub fn export(&self, interface: &str) -> Option<&str> {
        self.exports.iter().find(|name| are_semver_compatible(name, interface)).map(String::as_str)
    }
}

/// Reads a component.
///
/// # Errors
///
/// [`ComponentError`]: not a component, too large, not valid, or with memories that cannot be counted.
pub fn inspect_component(bytes: &[u8]) -> Result<ComponentInfo, ComponentError> {
    inspect(bytes, MAX_MEMORIES)
}

/// Reads a stage. It has the memories of all its parts, each of which was bounded by itself.
pub(crate) fn inspect_stage(bytes: &[u8]) -> Result<ComponentInfo, ComponentError> {
    inspect(bytes, usize::MAX)
}

fn inspect(bytes: &[u8], most_memories: usize) -> Result<ComponentInfo, ComponentError> {
    if bytes.len() > MAX_COMPONENT_BYTES {
        return Err(ComponentError::TooLarge { bytes: bytes.len() });
    }
    if Parser::is_core_wasm(bytes) {
        return Err(ComponentError::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(ComponentError::NotWasm);
    }
    Validator::new_with_features(WasmFeatures::default()).validate_all(bytes).map_err(invalid)?;

    let outline = Outline::read(bytes, most_memories)?;
    let kinds = Kind::OF_COMPONENTS
        .into_iter()
        .filter(|kind| {
            let interface = kind.interface();
            let is = |name: &String| interface.is_some_and(|i| are_semver_compatible(name, i));
            outline.exports.iter().any(is)
        })
        .collect();
    Ok(ComponentInfo {
        digest: digest(bytes),
        bytes: bytes.len(),
        imports: outline.imports,
        exports: outline.exports,
        kinds,
        memories: outline.memories,
        producers: outline.producers.into_iter().collect(),
    })
}

fn invalid(error: wasmparser::BinaryReaderError) -> ComponentError {
    ComponentError::Invalid(error.to_string())
}

/// Outermost imports and exports, and the memories of everything that is instantiated.
#[derive(Default)]
struct Outline {
    imports: Vec<String>,
    exports: Vec<String>,
    memories: Vec<MemoryInfo>,
    producers: BTreeSet<Producer>,
}

/// A component or core module that is being read. Modules and components are counted as the format counts them, so that an
/// instantiation can be followed to what it instantiates; `None` is one that comes from elsewhere.
#[derive(Default)]
struct Frame {
    is_module: bool,
    modules: Vec<Option<Vec<MemoryInfo>>>,
    components: Vec<Option<Vec<MemoryInfo>>>,
    memories: Vec<MemoryInfo>,
}

impl Outline {
    fn read(bytes: &[u8], most_memories: usize) -> Result<Self, ComponentError> {
        let mut outline = Self::default();
        let mut open: Vec<Frame> = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(invalid)?;
            match payload {
                Payload::Version { encoding, .. } => {
                    open.push(Frame {
                        is_module: encoding == Encoding::Module,
                        ..Frame::default()
                    });
                }
                Payload::End(_) => outline.close(&mut open),
                Payload::CustomSection(section) => outline.made_with(&section),
                other => {
                    let outermost = open.len() == 1;
                    let Some(frame) = open.last_mut() else { continue };
                    frame.section(&other)?;
                    if frame.memories.len() > most_memories {
                        return Err(ComponentError::Unbounded(format!(
                            "it has more than {most_memories} memories"
                        )));
                    }
                    if outermost {
                        outline.names(&other)?;
                    }
                }
            }
        }
        Ok(outline)
    }

    fn close(&mut self, open: &mut Vec<Frame>) {
        let Some(frame) = open.pop() else { return };
        match open.last_mut() {
            None => self.memories = frame.memories,
            Some(parent) if frame.is_module => parent.modules.push(Some(frame.memories)),
            Some(parent) => parent.components.push(Some(frame.memories)),
        }
    }

    /// Custom sections are not validated, so what cannot be read is passed over.
    fn made_with(&mut self, section: &CustomSectionReader<'_>) {
        let KnownCustom::Producers(fields) = section.as_known() else { return };
        for field in fields.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                if self.producers.len() < MAX_PRODUCERS {
                    self.producers.insert(Producer {
                        field: field.name.to_owned(),
                        name: value.name.to_owned(),
                        version: value.version.to_owned(),
                    });
                }
            }
        }
    }

    fn names(&mut self, payload: &Payload<'_>) -> Result<(), ComponentError> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    self.imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    self.exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Frame {
    fn section(&mut self, payload: &Payload<'_>) -> Result<(), ComponentError> {
        match payload {
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    self.memories.push(memory_info(memory.map_err(invalid)?)?);
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance.map_err(invalid)? {
                        let found = self.modules.get(module_index as usize).cloned();
                        self.instantiate(found)?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } =
                        instance.map_err(invalid)?
                    {
                        let found = self.components.get(component_index as usize).cloned();
                        self.instantiate(found)?;
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias.map_err(invalid)?);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    match import.map_err(invalid)?.ty {
                        ComponentTypeRef::Module(_) => self.modules.push(None),
                        ComponentTypeRef::Component(_) => self.components.push(None),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    // An export is counted once more, as what it exports.
                    let export = export.map_err(invalid)?;
                    let index = export.index as usize;
                    match export.kind {
                        ComponentExternalKind::Module => {
                            self.modules.push(self.modules.get(index).cloned().flatten())
                        }
                        ComponentExternalKind::Component => {
                            self.components.push(self.components.get(index).cloned().flatten());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. }
            | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. } => {
                self.modules.push(None)
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. }
            | ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, .. } => {
                self.components.push(None)
            }
            _ => {}
        }
    }

    fn instantiate(&mut self, what: Option<Option<Vec<MemoryInfo>>>) -> Result<(), ComponentError> {
        let memories = what.flatten().ok_or_else(|| {
            ComponentError::Unbounded(
                "it instantiates a module or component that it takes from elsewhere".to_owned(),
            )
        })?;
        self.memories.extend(memories);
        Ok(())
    }
}

fn memory_info(memory: wasmparser::MemoryType) -> Result<MemoryInfo, ComponentError> {
    if memory.shared {
        return Err(ComponentError::Unbounded(
            "it has a shared memory; build it without threads".to_owned(),
        ));
    }
    if memory.page_size_log2.is_some_and(|log2| log2 != 16) {
        return Err(ComponentError::Unbounded(
            "it has a memory whose pages are not 64 KiB".to_owned(),
        ));
    }
    Ok(MemoryInfo { minimum_pages: memory.initial, maximum_pages: memory.maximum })
}
