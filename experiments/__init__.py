"""How runs are launched: composed from conf/, packed, trained, recorded, resumed."""
