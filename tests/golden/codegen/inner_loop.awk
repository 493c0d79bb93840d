# Prints the first innermost loop of an assembly file that has the instruction `has`: from a label to
# a branch back to it, with no other loop in between.
/^\.L[A-Za-z0-9_]+:/ {
  label = $1
  sub(/:.*/, "", label)
  at[label] = NR
}
{ line[NR] = $0 }
/^[ \t]+(j|b)[a-z.]*[ \t]/ {
  target = $NF
  if (!(target in at) || at[target] <= last) next
  last = NR
  found = 0
  for (i = at[target]; i <= NR; i++)
    if (line[i] ~ "^[ \t]+" has "[ \t]") found = 1
  if (!found) next
  for (i = at[target]; i <= NR; i++)
    print line[i]
  exit
}
