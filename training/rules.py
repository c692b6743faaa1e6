"""The rules by which supernets can be trained, by name. Free of torch."""

# name -> "module:Class" of a `training.subnets.Rule`
RULES = {
    "sandwich": "training.subnets:Sandwich",
    "ofa": "training.subnets:ProgressiveShrinking",
}
