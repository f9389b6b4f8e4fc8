"""FlowTurbo: fast sampling of flow-matching image models (Zhao et al., 2409.18128)."""
