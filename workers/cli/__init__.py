"""The commands: dni-train, dni-report, dni-status, dni-evaluate, dni-sample, dni-plan, dni-simulate."""
