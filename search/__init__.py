"""The search: its archive, its run folder, its operators. Free of torch and of argparse."""
