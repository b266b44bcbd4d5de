"""Option files: read, checked, laid out as a schedule, converted and fitted.

A check raises `OptionError`: one line, `<dotted.option>: must <rule>, got <value>. <fix>`.
"""
