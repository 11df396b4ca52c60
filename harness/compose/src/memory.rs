//! The memory maximum. The host has no limit for a single component that works, so the limit is part of the component: the
//! engine itself then refuses to grow a memory beyond it.

use std::convert::Infallible;

use wasm_encoder::reencode::{self, Reencode, ReencodeComponent};
use wasmparser::Parser;

use crate::error::{ComponentError, StepError};
use crate::inspect::inspect_component;

/// Bytes of a page.
pub const PAGE: u64 = 64 * 1024;

/// Memory maximum of a step that says nothing, in bytes.
pub const DEFAULT_MEMORY: u64 = 64 * 1024 * 1024;

/// Least memory maximum, in bytes.
pub const MIN_MEMORY: u64 = PAGE;

/// Greatest memory maximum, in bytes.
pub const MAX_MEMORY: u64 = 1024 * 1024 * 1024;

/// The component with its memories bounded: together they never exceed `maximum` bytes. With several, what is left over
/// their minimums is divided evenly.
pub(crate) fn limit(component: &[u8], maximum: u64) -> Result<Vec<u8>, StepError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&maximum) {
        return Err(StepError::MemoryRange { asked: maximum });
    }
    let memories = inspect_component(component)?.memories;
    let pages = maximum / PAGE;
    let minimum =
        memories.iter().fold(0u64, |sum, memory| sum.saturating_add(memory.minimum_pages));
    let Some(spare) = pages.checked_sub(minimum) else {
        return Err(StepError::MemoryTooSmall { minimum: minimum.saturating_mul(PAGE), maximum });
    };
    let share = spare / (memories.len().max(1) as u64);
    rewrite(component, share)
}

fn rewrite(component: &[u8], share: u64) -> Result<Vec<u8>, StepError> {
    let mut out = wasm_encoder::Component::new();
    Limiter { share }
        .parse_component(&mut out, Parser::new(0), component)
        .map_err(|error| ComponentError::Unbounded(error.to_string()))?;
    Ok(out.finish())
}

/// Copies a component, and gives every memory that one of its modules defines a maximum. Imported memories need none: they
/// are defined by another of its modules.
struct Limiter {
    /// Pages that each memory may grow by.
    share: u64,
}

impl Reencode for Limiter {
    type Error = Infallible;

    fn parse_memory_section(
        &mut self,
        memories: &mut wasm_encoder::MemorySection,
        section: wasmparser::MemorySectionReader<'_>,
    ) -> Result<(), reencode::Error<Infallible>> {
        for memory in section {
            let mut memory = self.memory_type(memory?)?;
            let most = memory.minimum.saturating_add(self.share);
            memory.maximum = Some(memory.maximum.map_or(most, |own| own.min(most)));
            memories.memory(memory);
        }
        Ok(())
    }
}

impl ReencodeComponent for Limiter {}
