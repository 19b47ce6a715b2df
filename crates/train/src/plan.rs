//! Where a run's memory goes, worked out before the first step.

use crate::memory::human_bytes;
use serde::{Deserialize, Serialize};

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Weights that stay as they are.
    pub frozen: u64,
    /// Trainable weights, f32.
    pub trainable: u64,
    /// Their gradients, f32.
    pub gradients: u64,
    /// AdamW's two moments, f32.
    pub optimizer: u64,
    /// Activations and workspaces of the largest micro-batch.
    pub activations: u64,
    /// What the machine has left at the start; `None` where it does not tell.
    pub available: Option<u64>,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Whether blocks are computed again in the backward pass.
    pub every_block: bool,
    /// Why `every_block` is what it is, for people.
    pub reason: String,
}

impl MemoryPlan {
    /// Everything added up.
    pub fn total(&self) -> u64 {
        self.frozen + self.trainable + self.gradients + self.optimizer + self.activations
    }

    /// Whether the plan fits in what is available; true where that is unknown.
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            ("frozen weights", self.frozen),
            ("trainable weights", self.trainable),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("total", self.total()),
        ];
        for (name, bytes) in rows {
            writeln!(f, "{name:<18}{:>12}", human_bytes(bytes))?;
        }
        if let Some(available) = self.available {
            writeln!(f, "{:<18}{:>12}", "available", human_bytes(available))?;
        }
        let checkpointing = if self.every_block { "every_block" } else { "none" };
        write!(f, "checkpointing {checkpointing} ({}); {} tokens in a micro-batch", self.reason, self.tokens)
    }
}
