"""The commands: dni-train, dni-report, dni-evaluate, dni-sample, dni-plan, dni-simulate."""
